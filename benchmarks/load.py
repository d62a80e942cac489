"""Keeps requests in flight with h2load (Debian: nghttp2-client), an HTTP/2 load generator written in C.

A client in Python uses more CPU than the servers measured here. perf_analyzer needs Triton's ModelConfig and ModelStatistics,
which the other servers don't have. h2load doesn't read gRPC statuses, so answers are checked before the load.
"""

import csv
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from turnout_loadtests.client import LOCAL
from turnout_loadtests.statistics import nearest_rank
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS, Stub

#: Most requests in flight on one connection; more clients get more connections.
STREAMS = 4
PERF = Path(__file__).parent.parent / ".venv-perf"


@dataclass(frozen=True)
class Reading:
    """One measurement, as the clients saw it.

    Attributes:
        requests: all that were answered; the other fields leave out the warm-up.
        rate: answers per second.
    """

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float


def h2load() -> str:
    """The path of h2load, or of the program that the environment variable `H2LOAD` names.

    Raises:
        SystemExit: it isn't installed.
    """
    found = shutil.which(os.environ.get("H2LOAD", "h2load"))
    if not found:
        raise SystemExit("benchmarks: h2load is not installed; on Debian: apt-get install nghttp2-client")
    return found


def measure(port: int, request: bytes, clients: int, seconds: float) -> Reading:
    """Keeps `clients` requests in flight for `seconds`; the first tenth is warm-up."""
    streams = min(STREAMS, clients)
    with tempfile.TemporaryDirectory() as scratch:
        body, log = Path(scratch) / "body", Path(scratch) / "log"
        body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
        connections = max(1, clients // streams)
        command = [h2load(), "-D", f"{seconds * 1000:.0f}ms", "-c", str(connections), "-m", str(streams), "-d", str(body)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-w", "24", "-W", "24"]
        command += [f"--log-file={log}", f"http://127.0.0.1:{port}{METHODS['ModelInfer'].path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True)
        rows = [tuple(map(int, line.split("\t"))) for line in log.read_text().splitlines()]
    if not rows or any(status != 200 for _, status, _ in rows):
        raise RuntimeError(f"requests failed:\n{done.stdout}")
    began_us = min(start for start, _, _ in rows)
    answers = [(start + took - began_us, took) for start, _, took in rows]
    return reading([(ended_us * 1e-6, took_us * 1e-3) for ended_us, took_us in answers], seconds)


def reading(answers: Sequence[tuple[float, float]], seconds: float) -> Reading:
    """The measurement of a load that lasted from 0 to `seconds`.

    Answers that came in the first tenth or after the load aren't counted. A request in flight at either limit counts by when it
    ends: if only requests that lie within the window counted, a part of one would be missing for each client.

    Args:
        answers: (when it came in s, latency in ms) of each answer.

    Raises:
        RuntimeError: fewer than two answers count.
    """
    from_s = seconds / 10
    took_ms = [ms for ended_s, ms in answers if from_s < ended_s <= seconds]
    if len(took_ms) < 2:
        raise RuntimeError(f"{len(took_ms)} answers in {seconds:g} s are too few to say anything; measure for longer")
    p50_ms, p99_ms = statistics.median(took_ms), nearest_rank(took_ms, 0.99)
    return Reading(len(answers), len(took_ms) / (seconds - from_s), p50_ms, p99_ms)


def perf_analyzer() -> tuple[Path, dict[str, str]] | None:
    """The path of Triton's load generator and the environment that it needs; None if it isn't installed."""
    program = PERF / "bin" / "perf_analyzer"
    libraries = [*PERF.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib"), *PERF.glob("usr/lib/*-linux-gnu")]
    return (program, {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}) if program.exists() else None


def measure_stream(port: int, model: str, clients: int, seconds: float) -> Reading:
    """Keeps `clients` messages in flight on one ModelStreamInfer. The server must have statistics.

    Raises:
        RuntimeError: perf_analyzer isn't there, or failed.
    """
    if (found := perf_analyzer()) is None:
        raise RuntimeError("perf_analyzer is not there; run `make .venv-perf/.installed`")
    program, environment = found
    before = _answered(port, model)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.csv"
        window_ms = f"{seconds * 1000:.0f}"
        command = [str(program), "-i", "grpc", "-u", f"127.0.0.1:{port}", "-m", model, "--streaming", "-f", str(report)]
        command += [f"--concurrency-range={clients}", f"--measurement-interval={window_ms}", "--stability-percentage=999"]
        environment = {**os.environ, **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if not report.exists():
            raise RuntimeError(f"perf_analyzer: {(done.stdout + done.stderr).strip()[:500]}")
        (line,) = csv.DictReader(report.read_text().splitlines())
    rate = float(line["Inferences/Second"])
    requests = _answered(port, model) - before
    return Reading(requests, rate, float(line["p50 latency"]) / 1e3, float(line["p99 latency"]) / 1e3)


def _answered(port: int, model: str) -> int:
    """The number of requests that a server has answered, by its own statistics."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", LOCAL) as channel:
        answer: pb.ModelStatisticsResponse = Stub(channel).ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=10)
    return sum(row.inference_stats.success.count for row in answer.model_stats)
