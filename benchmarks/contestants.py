"""The servers that are compared: how each is started with one model, and what its processes use."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

import grpc
import numpy as np
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from turnout_loadtests.client import LOCAL
from turnout_loadtests.payloads import outputs_of
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from benchmarks.cases import Case

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 120.0
#: Loading and measuring every model takes less than this.
READY_TIMEOUT_S = 120.0
#: Turnout sets this before it imports gRPC; the reference servers import gRPC first.
OUR_GRPC = {"GRPC_EXPERIMENTS": "-event_engine_listener"}

#: Models of which a run of one row can use more than one core.
LARGE = ("resnet50", "encoder")

#: Returns (command, additions to the environment) for a case, its model file, a port and a directory for temporary files.
Start = Callable[[Case, Path, int, Path], tuple[list[str], dict[str, str]]]


@dataclass(frozen=True)
class Contestant:
    """A server that can be started.

    Attributes:
        python: the interpreter of its environment; `make bench-peers` makes those that aren't our own.
        only: the cases that it is measured with; all if empty.
        watched: whether it measures its model after it starts to answer, and reports by its health when it is done.
    """

    name: str
    start: Start
    python: Path = Path(sys.executable)
    only: tuple[str, ...] = ()
    watched: bool = False

    def missing(self) -> str | None:
        """Why it can't be started; None if it can."""
        return None if self.python.exists() else f"{self.python.relative_to(ROOT)} is not there; run `make bench-peers`"


def contestants() -> list[Contestant]:
    """All servers that are compared, including Turnout."""
    run_per_core = f"--device=cpu={{threads=1,instances={len(os.sched_getaffinity(0))}}}"
    mlserver, kserve = (ROOT / f".venv-peer-{name}" / "bin" / "python" for name in ("mlserver", "kserve"))
    return [
        Contestant("floor: constant reply", _reference("floor", OUR_GRPC)),
        Contestant("turnout, completion queue", _turnout("completion-queue"), watched=True),
        Contestant("turnout, a run per core", _turnout("completion-queue", run_per_core), only=LARGE, watched=True),
        Contestant("turnout, aio", _turnout("aio"), watched=True),
        Contestant("plain grpc.aio servicer", _reference("plain")),
        Contestant("MLServer", lambda *what: _mlserver(mlserver, *what), mlserver),
        Contestant("KServe", lambda *what: _kserve(kserve, *what), kserve),
    ]


def _turnout(transport: str, *more: str) -> Start:
    def start(case: Case, model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
        repository = f"--model-repository={model.parents[2]}"
        flags = ["--metrics-port=0", f"--grpc-port={port}", f"--transport={transport}", "--drain-delay-s=0", *more]
        return [sys.executable, "-m", "turnout_server", repository, *flags], {}

    return start


def _reference(what: str, environment: Mapping[str, str] = MappingProxyType({})) -> Start:
    def start(case: Case, model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-m", "benchmarks.reference", what, str(model), str(port)], dict(environment)

    return start


def _kserve(python: Path, case: Case, model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    return [str(python), str(ROOT / "benchmarks/peers/kserve_server.py"), str(model), case.name, str(port)], {}


def _mlserver(python: Path, case: Case, model: Path, port: int, scratch: Path) -> tuple[list[str], dict[str, str]]:
    settings: dict[str, object] = {
        "grpc_port": port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    settings |= {"host": "127.0.0.1", "grpc_max_message_length": -1}
    (scratch / "settings.json").write_text(json.dumps(settings))
    described = {"name": case.name, "implementation": "mlserver_runtime.Onnx", "parameters": {"uri": str(model)}}
    (scratch / "model-settings.json").write_text(json.dumps(described))
    return [str(python.parent / "mlserver"), "start", str(scratch)], {"PYTHONPATH": str(ROOT / "benchmarks/peers")}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A server that answers correctly, and its processes."""

    def __init__(self, contestant: Contestant, case: Case, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.name = contestant.name
        self.port = port
        self._process = psutil.Process(process.pid)

    def processes(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def cpu_s(self) -> float:
        """The CPU seconds that it has used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def rss_mb(self) -> float:
        return float(sum(process.memory_info().rss for process in self.processes())) / 1e6


@contextlib.contextmanager
def running(contestant: Contestant, case: Case, model: Path, expected: dict[str, np.ndarray]) -> Iterator[Running]:
    """Starts a server, checks its answer, and stops it at the end.

    Args:
        expected: the outputs for the request of the case, by name.

    Raises:
        RuntimeError: the server doesn't answer.
        AssertionError: the answer is wrong.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as log:
        command, environment = contestant.start(case, model, port, Path(scratch))
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            check_answer(_first_answer(process, port, case, log), expected)
            if contestant.watched:
                await_ready(port)
            yield Running(contestant, case, port, process)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_ready(port: int) -> None:
    """Returns once Turnout on this port has loaded and measured every model."""
    watched = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(f"127.0.0.1:{port}", LOCAL) as channel:
        changes = health_pb2_grpc.HealthStub(channel).Watch(watched, timeout=READY_TIMEOUT_S, wait_for_ready=True)
        next(change for change in changes if change.status == health_pb2.HealthCheckResponse.SERVING)


def _first_answer(process: "subprocess.Popen[bytes]", port: int, case: Case, log: IO[bytes]) -> pb.ModelInferResponse:
    request, until_s = case.request(), time.monotonic() + START_TIMEOUT_S
    last: object = None
    while time.monotonic() < until_s and process.poll() is None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", LOCAL) as channel:
            try:
                answer: pb.ModelInferResponse = Stub(channel).ModelInfer(request, timeout=10)
                return answer
            except grpc.RpcError as error:
                last = error
                time.sleep(0.2)
    log.seek(0)
    raise RuntimeError(f"it did not answer {case.name}: {last}\n{log.read().decode(errors='replace')[-2000:]}")


def check_answer(answer: pb.ModelInferResponse, expected: dict[str, np.ndarray]) -> None:
    """Checks every output of an answer.

    Raises:
        AssertionError: an output is missing, wrong, or not sent as raw bytes.
    """
    found = outputs_of(answer) if answer.raw_output_contents else {}
    assert found.keys() == expected.keys(), f"it answered with the raw outputs {sorted(found)}, not {sorted(expected)}"
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-3)
