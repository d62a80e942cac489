import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.cells import Cell, Load, summarise
from turnout_loadtests.samples import Samples

LOAD = Load(host="127.0.0.1:1", model="m", device="cpu", batch=4, users=2)


def samples(*rows: tuple[float, float, str], window_s: tuple[float, float] = (1.0, 11.0), cpu_s: float = 1.0) -> Samples:
    """Samples of requests given as (began_s, ended_s, code)."""
    count, good = len(rows), [code == "OK" for _, _, code in rows]
    return Samples(
        began_s=np.array([row[0] for row in rows]),
        ended_s=np.array([row[1] for row in rows]),
        code=np.array([row[2] for row in rows], np.str_),
        device=np.where(good, "cpu", "") if rows else np.array([], np.str_),
        batch_size=np.where(good, 8, 0) if rows else np.array([], np.int64),
        queue_us=np.full(count, 10),
        compute_us=np.full(count, 500),
        window_s=np.array(window_s),
        client_cpu_s=cpu_s,
    )


def summary(measured: Samples) -> Cell:
    return summarise(LOAD, measured, "locust", idle_pressure_percent=1.0)


def test_failures_never_enter_latency_or_throughput() -> None:
    answered = [(2.0 + i / 100, 2.1 + i / 100, "OK") for i in range(100)]
    refused = [(2.0 + i / 100, 2.0001 + i / 100, "UNAVAILABLE") for i in range(900)]
    cell = summary(samples(*answered, *refused))
    assert cell.service_p50_ms == pytest.approx(100)
    assert cell.service_p95_ms == pytest.approx(100)
    assert (cell.requests, cell.failures, cell.failures_by_code) == (1000, 900, {"UNAVAILABLE": 900})
    assert cell.requests_per_s == pytest.approx(10)
    assert cell.flags == ["failures"]


def test_requests_of_the_warm_up_are_not_measured() -> None:
    warm_up = [(0.1, 0.9, "OK")] * 10 + [(0.2, 0.3, "UNAVAILABLE")]
    cell = summary(samples(*warm_up, *[(2.0, 2.5, "OK")] * 10))
    assert (cell.requests, cell.failures, cell.requests_per_s) == (10, 0, 1.0)
    assert cell.service_p50_ms == pytest.approx(500)


def test_throughput_counts_what_ended_in_the_window_and_latency_what_began() -> None:
    into, out = (0.5, 1.5, "OK"), (10.9, 12.9, "OK")
    cell = summary(samples(into, *[out] * 10))
    assert cell.requests == 10
    assert cell.service_p50_ms == pytest.approx(2000)
    assert cell.requests_per_s == pytest.approx(0.1)


def test_a_cell_has_rates_of_rows_and_requests_and_the_servers_own_times() -> None:
    cell = summary(samples(*[(2.0, 2.1, "OK")] * 20))
    assert (cell.requests_per_s, cell.rows_per_s) == (2.0, 8.0)
    assert (cell.queue_p50_us, cell.compute_p50_us, cell.rows_run_together) == (10, 500, 8)
    assert cell.answered_by == {"cpu": 20}


def test_a_busy_sender_is_flagged() -> None:
    assert summary(samples((2.0, 2.1, "OK"), cpu_s=9.0)).flags == ["client-limited"]


@pytest.mark.parametrize(("pressure_percent", "flagged"), [(None, []), (10.0, []), (10.1, ["noisy"])])
def test_other_work_on_the_machine_is_flagged(pressure_percent: float | None, flagged: list[str]) -> None:
    assert summarise(LOAD, samples((2.0, 2.1, "OK")), "locust", pressure_percent).flags == flagged


@pytest.mark.parametrize("window_s", [(1.0, 11.0), (np.inf, np.inf), (np.inf, 3.0), (3.0, 3.0)])
def test_an_empty_measurement_is_flagged(window_s: tuple[float, float]) -> None:
    cell = summary(samples(window_s=window_s, cpu_s=0.0))
    assert cell.flags == ["no answers"]
    assert (cell.requests, cell.requests_per_s, cell.service_p50_ms, cell.queue_p50_us) == (0, 0.0, None, None)


@given(st.lists(st.tuples(st.floats(0, 12), st.floats(0, 3), st.sampled_from(["OK", "CANCELLED"])), max_size=60))
def test_every_request_in_the_window_counts_as_answered_or_failed(rows: list[tuple[float, float, str]]) -> None:
    cell = summary(samples(*[(began, began + took, code) for began, took, code in rows]))
    begun = [code for began, _, code in rows if 1 <= began < 11]
    assert cell.requests == len(begun)
    assert cell.failures == begun.count("CANCELLED") == sum(cell.failures_by_code.values())
    assert sum(cell.answered_by.values()) == begun.count("OK")
