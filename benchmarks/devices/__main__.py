"""`python -m benchmarks.devices`: one server with two CPU devices on a core each, under more load than either can carry."""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

from benchmarks import results
from benchmarks.cases import CASES, Case
from benchmarks.contestants import ROOT, Contestant, Running, await_ready, running
from benchmarks.devices import report
from benchmarks.devices.client import Client
from benchmarks.devices.figures import Figures, summary
from benchmarks.devices.report import Kill, Report
from benchmarks.reference import session_of

#: The device in the server's process, and the one with a process of its own.
A, B = "cpu:a", "cpu:b"
CONFIG = """
[devices."cpu:a"]
threads = 1
cpus = "{}"
isolation = "in-process"
[devices."cpu:b"]
threads = 1
cpus = "{}"
isolation = "process"
[devices.cpu]
disabled = true
"""
#: Computes for some tens of milliseconds on one core.
CASE = next(case for case in CASES if case.name == "encoder")
MODEL_CONFIG = "max_batch_size: 4\n"
#: By when an answer is wanted, as a multiple of what a run takes.
TARGET_RUNS = 10
#: Loads: of the better device, of both, and of the weaker one while the other is killed.
OVER_ONE, NEAR_BOTH, ONE_CARRIES = 1.7, 0.95, 0.6
#: Requests a second that name the device that is killed.
NAMED = 8.0
#: Cores that the rest of the machine may take during a measurement, and how often one that was disturbed is made.
QUIET, TRIES = 0.15, 2
#: Of the seconds of a run with a kill, those before it.
BEFORE_KILL = 1 / 3


Result = TypeVar("Result")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each load (7)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each (5)")
    parser.add_argument("--kill-seconds", type=float, default=12.0, help="length of a run in which a device is killed (12)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="where the report goes (docs/results)")
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two cores are needed")
    about = results.machine() | {"command": " ".join(["python -m benchmarks.devices", *sys.argv[1:]])}
    about["date"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    about["niceness"] = str(os.nice(0))
    with (
        tempfile.TemporaryDirectory() as directory,
        _served(Path(directory), cores[0], cores[1]) as server,
        closing(Client(server.port, CASE)) as client,
    ):
        asked = ((A,), (B,), (A, B))
        capacities = [[_capacity(server, client, devices, chosen.seconds / 2) for devices in asked] for _ in range(3)]
        made = Report(about, A, B, capacities, CASE.name, TARGET_RUNS)
        _say(f"alone {made.alone}, together {made.together:.1f}/s, target {made.target_s * 1e3:.0f} ms")
        loads = [(device, OVER_ONE * max(made.alone.values())) for device in (A, B, "auto")]
        loads.append(("auto", NEAR_BOTH * made.together))
        for number in range(chosen.rounds):
            for device, rate in loads if number % 2 == 0 else loads[::-1]:
                figures = _measured(server, client, device, rate, chosen.seconds, made.target_s, number)
                made.rounds.setdefault((device, rate), []).append(figures)
                _say(f"{device} at {rate:.1f}/s: {figures.goodput:.1f}/s in time; others took {figures.other_cores:.2f} cores")
        for rate in (ONE_CARRIES * min(made.alone.values()), OVER_ONE * max(made.alone.values()) - NAMED):
            made.kills.append(_killed(server, client, rate, chosen.kill_seconds, made.target_s))
    report.write(chosen.output, made)
    print((chosen.output / "devices.md").read_text())


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _served(root: Path, *cores: int) -> Iterator[Running]:
    """A server with both devices, which has measured its model on each."""
    case = CASE
    model = case.publish(root / "models")
    (root / "models" / case.name / "config.pbtxt").write_text(MODEL_CONFIG)
    config = root / "turnout.toml"
    config.write_text(CONFIG.format(*cores))
    session = session_of(str(model))
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, case.request()), strict=True))
    del session

    def start(case: Case, model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
        flags = [f"--config={config}", "--metrics-port=0", f"--grpc-port={port}", "--drain-delay-s=0"]
        return [sys.executable, "-m", "turnout_server", f"--model-repository={model.parents[2]}", *flags], {}

    with running(Contestant("turnout", start), case, model, expected) as server:
        await_ready(server.port)
        yield server


def _capacity(server: Running, client: Client, devices: tuple[str, ...], seconds: float) -> float:
    """Answers a second of these devices at once, all together."""
    rates, _ = _undisturbed(server, lambda: client.capacity(devices, seconds))
    return sum(rates.values())


def _measured(server: Running, client: Client, device: str, rate: float, seconds: float, target_s: float, seed: int) -> Figures:
    """One load in one round, and who took the CPU meanwhile."""
    answers, cores = _undisturbed(server, lambda: client.poisson({device: rate}, seconds, target_s, seed))
    return replace(summary(answers, seconds, target_s, B), **cores._asdict())


class _Cores(NamedTuple):
    """How many cores were busy for whom during a measurement."""

    server_cores: float
    client_cores: float
    other_cores: float


def _undisturbed(server: Running, measure: Callable[[], Result]) -> tuple[Result, _Cores]:
    """A measurement during which the rest of the machine was `QUIET`; else the least disturbed of `TRIES`."""
    tries: list[tuple[Result, _Cores]] = []
    while len(tries) < TRIES and not (tries and tries[-1][1].other_cores < QUIET):
        began_s, before_s = time.monotonic(), (server.cpu_s(), time.process_time(), _busy_s())
        result = measure()
        after_s, took_s = (server.cpu_s(), time.process_time(), _busy_s()), time.monotonic() - began_s
        server_s, client_s, busy_s = (after - before for after, before in zip(after_s, before_s, strict=True))
        others_s = max(0.0, busy_s - server_s - client_s)
        tries.append((result, _Cores(server_s / took_s, client_s / took_s, others_s / took_s)))
    return min(tries, key=lambda each: each[1].other_cores)


def _busy_s() -> float:
    """CPU seconds that the machine has used so far, all cores together."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - times.iowait)


def _killed(server: Running, client: Client, rate: float, seconds: float, target_s: float) -> Kill:
    """A load on `auto` and a little on the second device, whose process is killed meanwhile."""
    client.wait_for(B)
    (child,) = server.processes()[1:]
    timer = threading.Timer(seconds * BEFORE_KILL, child.send_signal, [signal.SIGKILL])
    timer.start()
    answers = client.poisson({"auto": rate, B: NAMED}, seconds, target_s, seed=0)
    timer.join()
    return Kill(rate, NAMED, seconds * BEFORE_KILL, seconds, answers)


if __name__ == "__main__":
    main()
