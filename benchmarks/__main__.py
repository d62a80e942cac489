"""`python -m benchmarks`: measures every server under the same loads in interleaved rounds, and reports the medians."""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks import load, results
from benchmarks.cases import CASES, Case
from benchmarks.contestants import ROOT, Contestant, Running, await_ready, contestants, running
from benchmarks.reference import expected_outputs
from benchmarks.results import OURS, Row

#: Seconds without requests before a server's idle CPU is measured, and for which it is measured.
IDLE_S = 10.0


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server under each load (5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement (4)")
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], help="measure only these models")
    parser.add_argument("--servers", nargs="+", help="measure only servers whose name contains one of these")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="the report's folder (docs/results)")
    chosen = parser.parse_args()
    load.h2load()
    if load.perf_analyzer() is None:
        print("streams are not measured: perf_analyzer is missing; run `make .venv-perf/.installed`", file=sys.stderr)
    about = results.about("benchmarks")
    notes, present = [], []
    for contestant in contestants():
        if chosen.servers and not any(part in contestant.name for part in chosen.servers):
            continue
        missing = contestant.missing()
        if missing:
            notes.append(f"left out: {contestant.name}: {missing}")
        else:
            present.append(contestant)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        cases = [case for case in CASES if not chosen.cases or case.name in chosen.cases]
        for case in cases:
            rows += _case(case, present, Path(directory) / case.name, chosen.rounds, chosen.seconds, notes)
        idle = _idle(cases, Path(directory) / "all") if any(contestant.name == OURS for contestant in present) else {}
    results.write(chosen.output, about, rows, idle, notes)
    print((chosen.output / "benchmarks.md").read_text())


def _case(case: Case, present: list[Contestant], root: Path, rounds: int, seconds: float, notes: list[str]) -> Iterator[Row]:
    """Starts every server with one model, then measures them in turns."""
    model = case.publish(root)
    expected, request = expected_outputs(model, case), case.request().SerializeToString()
    with contextlib.ExitStack() as stack:
        servers: list[Running] = []
        for contestant in present:
            if contestant.only and case.name not in contestant.only:
                continue
            try:
                servers.append(stack.enter_context(running(contestant, case, model, expected)))
            except (RuntimeError, AssertionError) as error:
                notes.append(f"left out: {contestant.name} with {case.name}: {str(error).splitlines()[0]}")
                print(error, file=sys.stderr)
        for number in range(rounds):
            yield from _limit(case, model, seconds)
            # Every second round runs in reverse, so that no server always follows the same one.
            for server in servers if number % 2 == 0 else servers[::-1]:
                for clients in case.clients:
                    row = _measured(server, case, request, clients, seconds)
                    print(f"{row.case} {row.clients} {row.contestant}: {row.rate:.0f}/s, {row.cpu_us:.0f} us", file=sys.stderr)
                    yield row
                for clients in case.streamed if server.name.startswith("turnout") and load.perf_analyzer() else ():
                    row = _streamed(server, case, clients, seconds)
                    print(f"{row.case} {row.clients} {row.contestant}: {row.rate:.0f}/s, {row.cpu_us:.0f} us", file=sys.stderr)
                    yield row


def _streamed(server: Running, case: Case, clients: int, seconds: float) -> Row:
    before_s = server.cpu_s()
    reading = load.measure_stream(server.port, case.name, clients, seconds)
    cpu_us = (server.cpu_s() - before_s) / reading.requests * 1e6
    name = f"{case.name} on a stream"
    return Row(name, clients, server.name, reading.rate, reading.p50_ms, reading.p99_ms, cpu_us, server.rss_mb())


def _measured(server: Running, case: Case, request: bytes, clients: int, seconds: float) -> Row:
    before_s = server.cpu_s()
    reading = load.measure(server.port, request, clients, seconds)
    cpu_us = (server.cpu_s() - before_s) / reading.requests * 1e6
    return Row(case.name, clients, server.name, reading.rate, reading.p50_ms, reading.p99_ms, cpu_us, server.rss_mb())


def _limit(case: Case, model: Path, seconds: float) -> Iterator[Row]:
    """The rate of `session.run` without a server: an upper limit for any number of clients."""
    command = [sys.executable, "-m", "benchmarks.reference", "limit", str(model), str(seconds)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rate, p50_ms, p99_ms, cpu_us = map(float, printed.split())
    for clients in case.clients:
        yield Row(case.name, clients, "limit: session.run alone", rate, p50_ms, p99_ms, cpu_us, 0.0)


def _idle(cases: list[Case], root: Path) -> dict[str, float]:
    """What Turnout uses with every model loaded and no requests."""
    models = [case.publish(root) for case in cases]
    (ours,) = [contestant for contestant in contestants() if contestant.name == OURS]
    with running(ours, cases[0], models[0], expected_outputs(models[0], cases[0])) as server:
        await_ready(server.port)
        time.sleep(IDLE_S)
        before_s = server.cpu_s()
        time.sleep(IDLE_S)
        idle = {"CPU, % of a core": (server.cpu_s() - before_s) / IDLE_S * 100, "RSS MB": server.rss_mb()}
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-m", "turnout_server", f"--model-repository={empty}", "--grpc-port=0", "--metrics-port=0"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(5)
        idle["RSS MB without models"] = psutil.Process(process.pid).memory_info().rss / 1e6
        process.terminate()
        process.wait(20)
    return idle


if __name__ == "__main__":
    main()
