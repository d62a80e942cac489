"""Keeps requests in flight with h2load (Debian: nghttp2-client), which speaks HTTP/2 and so gRPC, at the speed of C.

A client in Python costs more CPU than the servers measured here, and perf_analyzer refuses servers without Triton's ModelConfig
and ModelStatistics, which the peers don't have. h2load doesn't read gRPC statuses: that answers are right is checked before.
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
from typing import Any

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS

#: Requests in flight on one connection; more clients get more connections.
STREAMS = 4
PERF = Path(__file__).parent.parent / ".venv-perf"


@dataclass(frozen=True)
class Reading:
    """What clients saw in one measurement."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float


def h2load() -> str:
    """The program; `H2LOAD` may name it.

    Raises:
        SystemExit: it isn't installed.
    """
    found = shutil.which(os.environ.get("H2LOAD", "h2load"))
    if not found:
        raise SystemExit("benchmarks: h2load is not installed; on Debian: apt-get install nghttp2-client")
    return found


def measure(port: int, request: bytes, clients: int, seconds: float) -> Reading:
    """Keeps `clients` requests in flight for `seconds`, the first tenth of which doesn't count."""
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
    """What was seen of answers that came at (s, after ms), under a load that was kept up from 0 on for `seconds`.

    What ends in the first tenth doesn't count, nor what ends when the load has ended. What was under way at either moment
    counts where it ends: a span that began and ended with whole requests would lack a part of one at each client.
    """
    from_s = seconds / 10
    took_ms = [ms for ended_s, ms in answers if from_s < ended_s <= seconds]
    if len(took_ms) < 2:
        raise RuntimeError(f"{len(took_ms)} answers in {seconds:g} s are too few to say anything; measure for longer")
    return Reading(len(answers), len(took_ms) / (seconds - from_s), statistics.median(took_ms), _p99(took_ms))


def perf_analyzer() -> tuple[Path, dict[str, str]] | None:
    """Triton's load generator and the environment it needs; None where `make .venv-perf/.installed` hasn't put it."""
    program = PERF / "bin" / "perf_analyzer"
    libraries = [*PERF.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib"), *PERF.glob("usr/lib/*-linux-gnu")]
    return (program, {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}) if program.exists() else None


def measure_stream(port: int, model: str, clients: int, seconds: float) -> Reading:
    """The same over one ModelStreamInfer on which `clients` messages are kept in flight. The server must have statistics.

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
    """How many requests a server says that it has answered."""
    question = pb.ModelStatisticsRequest(name=model).SerializeToString()
    channel: Any
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = channel.unary_unary(METHODS["ModelStatistics"].path)(question, timeout=10)
    return sum(row.inference_stats.success.count for row in pb.ModelStatisticsResponse.FromString(answer).model_stats)


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]
