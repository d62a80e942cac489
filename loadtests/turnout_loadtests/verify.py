"""Checks these load tests against another tool: one load, measured in turns by both."""

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import grpc
import numpy as np

from turnout_loadtests.client import connect, model_metadata, number, refused
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import Surroundings, summarise
from turnout_loadtests.payloads import asked_of, parse_shape, request_pool
from turnout_loadtests.sending.load import Load
from turnout_loadtests.sending.senders import Senders

#: The run on the device has to take this long, so that both clients' own costs are small beside it.
MIN_COMPUTE_MS = 20.0
MAX_BATCH = 256
WITHIN = 0.10
IN_FLIGHT = 2
WINDOW_S = 10.0
PROBES = 5
TOOL_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Measured:
    """What one tool measured: requests per second and the median latency."""

    requests_per_s: float
    p50_ms: float


@dataclass(frozen=True)
class Agreement:
    """Whether two tools agree, and the sentence that says so."""

    verified: bool
    text: str


class Verifier(Protocol):
    """Another tool: measures a closed load; None if it says itself that its measurement isn't stable."""

    def __call__(self, load: Load) -> Measured | None: ...


def verify(host: str, model: str, device: str, shape: str, tool: Verifier, rounds: int) -> Agreement:
    """Measures one load in turns with these load tests and with the tool.

    Raises:
        LoadTestError: no batch takes `MIN_COMPUTE_MS`, or the tool can't run.
    """
    load = _slow_enough(Load(host, model, device, in_flight=IN_FLIGHT, warm_up_s=1.0, duration_s=WINDOW_S, shape=shape))
    ours: list[Measured] = []
    theirs: list[Measured | None] = []
    with Senders(1) as senders:
        for _ in range(rounds):
            ours.append(_measure(senders, load))
            theirs.append(tool(load))
    return agreement(load, ours, theirs)


def agreement(load: Load, ours: Sequence[Measured], theirs: Sequence[Measured | None]) -> Agreement:
    """Whether the medians of both tools' rounds agree within a tenth."""
    stable = [each for each in theirs if each is not None]
    what = f"{load.model} on {load.device}, batch {load.batch}, {load.in_flight} requests in flight"
    if not stable:
        return Agreement(False, f"not verified: {what}: the other tool had no stable measurement in {len(theirs)} rounds")
    mine, other = _middle(ours), _middle(stable)
    off = max(abs(mine.requests_per_s / other.requests_per_s - 1), abs(mine.p50_ms / other.p50_ms - 1))
    figures = (
        f"{three_digits(mine.requests_per_s)} requests/s and p50 {three_digits(mine.p50_ms)} ms against "
        f"{three_digits(other.requests_per_s)} and {three_digits(other.p50_ms)} ms"
    )
    said = "verified" if off <= WITHIN else "not verified"
    return Agreement(off <= WITHIN, f"{said}: {what}: {figures}, {off:.1%} apart ({len(stable)} rounds)")


def perf_analyzer(path: str) -> Verifier:
    """Triton's perf_analyzer; searched on PATH and in `.venv-perf` unless its path is given.

    Raises:
        LoadTestError: it isn't there.
    """
    found = path or shutil.which("perf_analyzer") or str(Path(".venv-perf/bin/perf_analyzer"))
    if not Path(found).exists():
        raise LoadTestError("perf_analyzer isn't on PATH nor in .venv-perf; make .venv-perf/.installed, or name it with --path")
    return lambda load: _run_perf_analyzer(Path(found), load)


VERIFIERS: dict[str, Callable[[str], Verifier]] = {"perf_analyzer": perf_analyzer}


def read_perf_analyzer(text: str) -> Measured:
    """The figures in the CSV file of perf_analyzer."""
    row = next(csv.DictReader(text.splitlines()))
    return Measured(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e3)


def _run_perf_analyzer(program: Path, load: Load) -> Measured | None:
    root = program.resolve().parent.parent
    libraries = [str(path) for pattern in _LIBRARIES for path in root.glob(pattern)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            str(program), "-i", "grpc", "-u", load.host, "-m", load.model, "-b", str(load.batch), "--async",
            f"--concurrency-range={load.in_flight}",
            *(f"--request-parameter={key}:{value}:string" for key, value in asked_of(load.device).items()),
            f"--measurement-interval={int(load.duration_s * 1e3 / 3)}", "--percentile=50", "-f", str(report),
            *(f"--shape={text}" for text in load.shape.split()),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False,
                env=os.environ | {"LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        if report.exists() and report.read_text().count("\n") > 1:
            measured = read_perf_analyzer(report.read_text())
            return replace(measured, requests_per_s=measured.requests_per_s / load.batch)
        if "stable" in done.stdout + done.stderr:
            return None
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise LoadTestError(f"perf_analyzer ended with {done.returncode}: {lines[-1] if lines else 'it printed nothing'}")


#: Where its wheel and Debian's package put the libraries that it needs.
_LIBRARIES = ("lib/python3*/site-packages/nvidia/cuda_runtime/lib", "usr/lib/*-linux-gnu")


def _measure(senders: Senders, load: Load) -> Measured:
    senders.prepare(load)
    cell = summarise(load, senders.send(load), Surroundings(), "")
    if cell.requests_per_s is None or cell.service.p50_ms is None or cell.failures:
        texts = "; ".join(cell.failure_texts) or f"{cell.answers} answers in {cell.duration_s:.0f} s"
        raise LoadTestError(f"{load.model} on {load.device} can't be measured: {texts}")
    return Measured(cell.requests_per_s, cell.service.p50_ms)


def _slow_enough(load: Load) -> Load:
    """The load with the least batch whose run takes long enough.

    Raises:
        LoadTestError: there is none.
    """
    stub, batch, compute_ms = connect(load.host), 1, 0.0
    metadata = model_metadata(stub, load.model)
    while batch <= MAX_BATCH:
        shapes = dict(parse_shape(text) for text in load.shape.split())
        requests = request_pool(metadata, device=load.device, batch=batch, shapes=shapes, count=2)
        try:
            answers = [stub.ModelInfer(requests[turn % len(requests)], timeout=60.0) for turn in range(PROBES)]
        except grpc.RpcError as error:
            raise refused(error) from error
        compute_ms = float(np.median([number(answer.parameters, "compute_us") for answer in answers])) / 1e3
        if compute_ms >= 1.2 * MIN_COMPUTE_MS:
            return replace(load, batch=batch)
        batch *= 2
    raise LoadTestError(
        f"{load.model} takes {compute_ms:.3g} ms for {batch // 2} rows; comparing tools needs {MIN_COMPUTE_MS:g} ms"
    )


def _middle(rounds: Sequence[Measured]) -> Measured:
    return Measured(
        float(np.median([each.requests_per_s for each in rounds])), float(np.median([each.p50_ms for each in rounds]))
    )
