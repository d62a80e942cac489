"""Tests that Triton's unmodified perf_analyzer measures a model, in agreement with the server's statistics.

perf_analyzer prints nothing if three windows differ too much, as they do on a busy machine. So the tests allow large
differences, and use windows of requests instead of time.
"""

import csv
import os
import subprocess
from pathlib import Path

import pytest
from turnout_proto import inference_pb2 as pb

from tests.clients.environments import PERF
from tests.servers import RunningServer

#: The directories of libcudart (from a wheel) and libb64 (from a Debian package).
LIBRARIES = ("lib/python3*/site-packages/nvidia/cuda_runtime/lib", "usr/lib/*-linux-gnu")
QUICK = ["--measurement-mode=count_windows", "--measurement-request-count=20", "--stability-percentage=999", "--max-trials=3"]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment variables that perf_analyzer needs."""
    if not (PERF / "bin" / "perf_analyzer").exists():
        pytest.skip("there is no .venv-perf; run: make .venv-perf/.installed")
    paths = [str(path) for pattern in LIBRARIES for path in PERF.glob(pattern)]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(paths)}
    command = [str(PERF / "bin" / "perf_analyzer"), "--version"]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "error while loading shared libraries" in started.stderr:
        pytest.skip(started.stderr.strip())
    return environment


def statistics(server: RunningServer) -> pb.ModelStatistics:
    answer: pb.ModelStatisticsResponse = server.stub.ModelStatistics(pb.ModelStatisticsRequest(name="simple"))
    (row,) = answer.model_stats
    return row


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        pytest.param(["--concurrency-range=1:2"], 1, id="unary"),
        pytest.param(["--concurrency-range=4", "--async", "-b", "3"], 3, id="async"),
        pytest.param(["--concurrency-range=4", "--streaming"], 1, id="streaming"),
        pytest.param(["--concurrency-range=2", "--shared-memory=system"], 1, id="shared memory"),
    ],
)
def test_perf_analyzer_measures_a_model(
    server: RunningServer, environment: dict[str, str], tmp_path: Path, flags: list[str], rows: int
) -> None:
    before = statistics(server)
    report = tmp_path / "report.csv"
    model = ["-i", "grpc", "-u", server.address, "-m", "simple", "--request-parameter=device:cpu:string"]
    done = subprocess.run(
        [PERF / "bin" / "perf_analyzer", *model, *QUICK, *flags, "-f", report],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = list(csv.DictReader(report.read_text().splitlines()))
    assert len(lines) == (2 if "1:2" in flags[0] else 1)
    after = statistics(server)
    requests = after.inference_stats.success.count - before.inference_stats.success.count
    assert requests >= 20
    assert after.inference_count - before.inference_count == requests * rows
    assert after.inference_stats.fail.count == before.inference_stats.fail.count
    for line in lines:
        assert float(line["Inferences/Second"]) > 0
        assert float(line["Server Compute Infer"]) > 0  # from ModelStatistics
