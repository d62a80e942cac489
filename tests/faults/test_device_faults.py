"""What every client sees when a device fails. docs/device-faults.md shows the same table."""

import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import ISOLATED, ROW, Site

PAGE = Path(__file__).parents[2] / "docs" / "device-faults.md"

LOST = "UNAVAILABLE, again in 1000 ms"
UNHARMED = f"OK on {ISOLATED}"
MOVED = "OK on cpu, retried"
#: A request that was running isn't run again in the server's own process, where the other device is.
NOT_MOVED = LOST
#: A request that was sent before the server noticed the fault counts as running; a later one isn't sent to the device at all.
ELSEWHERE = f"OK on cpu|{LOST}"
REFUSED = "RESOURCE_EXHAUSTED, again in -1 ms"

#: Sends a request; returns what its client sees.
Ask = Callable[[], str]


def ask_after(happens: Callable[[Site], object]) -> Callable[[Site, Ask], str]:
    """The fault happens while the device is idle; the request is sent right after."""

    def provoke(site: Site, ask: Ask) -> str:
        happens(site)
        return ask()

    return provoke


def ask_before(happens: Callable[[Site], object]) -> Callable[[Site, Ask], str]:
    """The fault happens while the request runs on the device."""

    def provoke(site: Site, ask: Ask) -> str:
        site.faults.at("run", "hang")
        with ThreadPoolExecutor() as pool:
            asked: Future[str] = pool.submit(ask)
            site.faults.wait_until_happening()
            happens(site)
            return asked.result(timeout=30)

    return provoke


def run_does(fault: str) -> Callable[[Site, Ask], str]:
    """The fault happens in the run of the request."""
    return ask_after(lambda site: site.faults.at("run", fault))


def sent(number: signal.Signals) -> Callable[[Site], None]:
    return lambda site: site.worker.send_signal(number)


def kill_with(moment: str, *faults: str) -> Callable[[Site], None]:
    """Kills the process, and provokes faults in its successor."""

    def happens(site: Site) -> None:
        site.faults.at(moment, *faults)
        site.kill()

    return happens


def kill_the_next_one_too(site: Site) -> None:
    first = site.worker
    site.faults.at("start", "hang")
    site.kill()
    site.faults.wait_until_happening()
    assert site.worker.pid != first.pid
    site.kill()


def lose_a_models_file(site: Site) -> None:
    file = site.repository / "gone" / "1" / "quick.onnx"
    kept = file.rename(file.with_suffix(".kept"))
    restarts = site.metric("turnout_device_restarts_total")
    site.kill()
    site.wait_until_restarted(restarts)
    kept.rename(file)


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        provoke: provokes the fault around a request, and returns what its client saw.
        named, auto: patterns of what clients see that name the device, and that leave the choice to the server.
        restarts: the number of restarts that a fault causes.
        model, inputs: the request.
        asks: the `device` parameter of the second client.
    """

    what: str
    provoke: Callable[[Site, Ask], str]
    named: str
    auto: str
    restarts: int = 1
    model: str = "work"
    inputs: dict[str, np.ndarray] = field(default_factory=lambda: ROW)
    asks: str = "auto"


PREFERS = f"{ISOLATED},cpu"
LONG_TEXT = {"INPUT": np.array([b"x" * 4_000_000], np.object_)}
ONE_GIB = {"shape": np.array([2**14, 2**14])}

FAULTS = [
    Fault("killed while idle", ask_after(Site.kill), LOST, ELSEWHERE),
    Fault("killed in a run", ask_before(Site.kill), LOST, NOT_MOVED),
    Fault("segmentation fault in a run", ask_before(sent(signal.SIGSEGV)), LOST, NOT_MOVED),
    Fault("the runtime aborts", run_does("abort"), LOST, NOT_MOVED),
    Fault("the process exits in a run", run_does("exit"), LOST, NOT_MOVED),
    Fault("a run hangs", run_does("hang"), LOST, NOT_MOVED),
    Fault("stopped (SIGSTOP) while idle", ask_after(Site.freeze), LOST, NOT_MOVED),
    Fault("stopped (SIGSTOP) in a run", ask_before(Site.freeze), LOST, NOT_MOVED),
    Fault("stopped before 4 MB of text", ask_after(Site.freeze), LOST, NOT_MOVED, model="text", inputs=LONG_TEXT, asks=PREFERS),
    Fault("a CUDA error that sticks", run_does("sticky"), LOST, NOT_MOVED),
    Fault("killed, and the next process exits at its start", ask_after(kill_with("start", "exit")), LOST, ELSEWHERE, 2),
    Fault("killed, and the next process aborts as it loads a model", ask_after(kill_with("load", "abort")), LOST, ELSEWHERE, 2),
    Fault("killed, and killed again while it restarts", ask_after(kill_the_next_one_too), LOST, "OK on cpu", 2),
    Fault("killed, and the model's file is gone", ask_after(lose_a_models_file), LOST, MOVED, model="gone"),
    Fault("out of memory in a run (rlimit)", ask_after(lambda site: None), REFUSED, REFUSED, 0, "fill", ONE_GIB, PREFERS),
    Fault("out of GPU memory in a run", run_does("out of memory"), REFUSED, REFUSED, 0),
    Fault("an error nobody expected in a run", run_does("raise"), "INTERNAL", "INTERNAL", 0),
    Fault("SIGTERM to all processes of the server's group", ask_after(sent(signal.SIGTERM)), UNHARMED, UNHARMED, 0),
    Fault("SIGINT to all processes of the server's group", ask_after(sent(signal.SIGINT)), UNHARMED, UNHARMED, 0),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_55_a_fault_is_seen_only_by_the_clients_of_its_device(fault: Fault, site: Site) -> None:
    restarts = site.metric("turnout_device_restarts_total")
    recoveries_s = []
    with site.steady_load() as steady:
        for device, expected in [(ISOLATED, fault.named), (fault.asks, fault.auto)]:
            started_s = time.monotonic()
            seen = fault.provoke(site, partial(site.seen, device, fault.model, fault.inputs))
            assert re.fullmatch(expected, seen), seen
            site.wait_until_recovered()
            recoveries_s.append(time.monotonic() - started_s)
    assert steady.failures == []
    assert site.metric("turnout_device_restarts_total") - restarts == 2 * fault.restarts
    assert site.metric("turnout_device_up") == 1
    print(f"{fault.what}: recovered within {max(recoveries_s):.2f} s; the CPU's slowest answer took {steady.slowest_s:.3f} s")


def _shown(pattern: str) -> str:
    return pattern.replace("|", ", or ")


def test_the_page_has_this_table() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert [row[:4] for row in rows[1:]] == [
        [fault.what, _shown(fault.named), _shown(fault.auto), "OK on cpu"] for fault in FAULTS
    ]
