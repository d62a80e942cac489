"""`python -m benchmarks.devices`: loads one server, with two CPU devices on a core each, beyond what either can carry."""

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
from benchmarks.devices.report import Kill, Report
from benchmarks.devices.summary import Summary, summarise
from benchmarks.reference import expected_outputs

#: The device in the server's process, and the one in a device process.
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
#: A run of this model takes some tens of milliseconds on one core.
CASE = next(case for case in CASES if case.name == "encoder")
MODEL_CONFIG = "max_batch_size: 4\n"
#: The latency target, as a multiple of the service time of a run.
TARGET_RUNS = 10
#: Loads as multiples of the capacity: of the better device; of both; of the weaker one while the other is killed.
OVER_ONE, NEAR_BOTH, ONE_CARRIES = 1.7, 0.95, 0.6
#: Requests per second that name the device that is killed.
NAMED = 8.0
#: Cores that other processes may use during a measurement, and how many tries a disturbed measurement gets.
QUIET, TRIES = 0.15, 2
#: The share of the time before the kill.
BEFORE_KILL = 1 / 3


Result = TypeVar("Result")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each load (7)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (5)")
    parser.add_argument("--kill-seconds", type=float, default=12.0, help="length of a load in which a device is killed (12)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="the report's folder (docs/results)")
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two cores are needed")
    about = results.about("benchmarks.devices") | {"niceness": str(os.nice(0))}
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
                found = _measured(server, client, device, rate, chosen.seconds, made.target_s, number)
                made.rounds.setdefault((device, rate), []).append(found)
                _say(f"{device} at {rate:.1f}/s: {found.goodput:.1f}/s in time; others used {found.other_cores:.2f} cores")
        for rate in (ONE_CARRIES * min(made.alone.values()), OVER_ONE * max(made.alone.values()) - NAMED):
            made.kills.append(_killed(server, client, rate, chosen.kill_seconds, made.target_s))
    report.write(chosen.output, made)
    print((chosen.output / "devices.md").read_text())


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _served(root: Path, *cores: int) -> Iterator[Running]:
    """Runs a server with both devices, which has measured its model on each."""
    case = CASE
    model = case.publish(root / "models")
    (root / "models" / case.name / "config.pbtxt").write_text(MODEL_CONFIG)
    config = root / "turnout.toml"
    config.write_text(CONFIG.format(*cores))

    def start(case: Case, model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
        flags = [f"--config={config}", "--metrics-port=0", f"--grpc-port={port}", "--drain-delay-s=0"]
        return [sys.executable, "-m", "turnout_server", f"--model-repository={model.parents[2]}", *flags], {}

    with running(Contestant("turnout", start), case, model, expected_outputs(model, case)) as server:
        await_ready(server.port)
        yield server


def _capacity(server: Running, client: Client, devices: tuple[str, ...], seconds: float) -> float:
    """The sum of answers per second of these devices, loaded at the same time."""
    rates, _ = _undisturbed(server, lambda: client.capacity(devices, seconds))
    return sum(rates.values())


def _measured(server: Running, client: Client, device: str, rate: float, seconds: float, target_s: float, seed: int) -> Summary:
    """One load in one round."""
    outcomes, cores = _undisturbed(server, lambda: client.poisson({device: rate}, seconds, target_s, seed))
    return replace(summarise(outcomes, seconds, target_s, B), **cores._asdict())


class _Cores(NamedTuple):
    """The cores in use during a measurement: by the server, by this client, by all other processes."""

    server_cores: float
    client_cores: float
    other_cores: float


def _undisturbed(server: Running, measure: Callable[[], Result]) -> tuple[Result, _Cores]:
    """A measurement during which other processes used less than `QUIET` cores; else the least disturbed of `TRIES`."""
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
    """The CPU seconds that the machine has used so far, on all cores."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - times.iowait)


def _killed(server: Running, client: Client, rate: float, seconds: float, target_s: float) -> Kill:
    """A load on `auto` and a small one on the second device, whose process is killed meanwhile."""
    client.wait_for(B)
    (device_process,) = server.processes()[1:]
    timer = threading.Timer(seconds * BEFORE_KILL, device_process.send_signal, [signal.SIGKILL])
    timer.start()
    outcomes = client.poisson({"auto": rate, B: NAMED}, seconds, target_s, seed=0)
    timer.join()
    return Kill(rate, NAMED, seconds * BEFORE_KILL, seconds, outcomes)


if __name__ == "__main__":
    main()
