from dataclasses import dataclass, field
from typing import Any

from turnout_loadtests.measuring.server_metrics import Page
from turnout_loadtests.sending.board import Board


@dataclass
class Entry:
    """A row of Locust's statistics."""

    num_requests: int = 1
    num_failures: int = 0
    current_rps: float = 0.0

    def get_current_response_time_percentile(self, share: float) -> float:
        return 5.0 * share


@dataclass
class Stats:
    """Locust's statistics, without Locust: importing it would change the standard library for all tests."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)


def answer(device: str = "cpu", queue_us: int = 1000, compute_us: int = 3000) -> dict[str, object]:
    return {"device": device, "queue_us": queue_us, "compute_us": compute_us}


def stats(*names: str) -> Any:
    return Stats({(name, "grpc"): Entry() for name in names})


def test_a_row_has_the_servers_times_and_who_answered() -> None:
    board = Board()
    board.add("m cuda b1", answer("cuda:0"))
    board.add("m cuda b1", answer("cuda:1", 3000, 5000))
    (row,) = board.rows(stats("m cuda b1"))
    assert (row["queue_ms"], row["compute_ms"], row["answered_by"], row["requests"]) == ("2", "4", "cuda:0, cuda:1", "1")


def test_workers_times_are_added_on_the_master_once() -> None:
    worker, master = Board(), Board()
    worker.add("m", answer())
    master.merge(worker.take())
    master.merge(worker.take())
    worker.add("m", answer(queue_us=3000))
    master.merge(worker.take())
    (row,) = master.rows(stats("m"))
    assert row["queue_ms"] == "2"


def test_two_pages_of_metrics_tell_how_busy_the_device_is() -> None:
    board = Board()
    board.add("m", answer())
    board.seen(Page(0.0, {"cpu": 0.0}, {"cpu": 0.0}, {"cpu": 0.0}, gpu_w={"a": 70.0}))
    board.seen(None)
    board.seen(Page(10.0, {"cpu": 5.0}, {"cpu": 10.0}, {"cpu": 10.0}, gpu_w={"a": 71.0, "b": 9.0}))
    (row,) = board.rows(stats("m"))
    assert (row["busy"], row["power_w"]) == ("50%", "80")


def test_a_row_without_answers_has_no_times() -> None:
    (row,) = Board().rows(stats("m"))
    assert (row["queue_ms"], row["busy"], row["power_w"]) == ("", "", "")
