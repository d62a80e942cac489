"""The servers: how each is started over one model, and what its processes cost."""

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
from typing import IO, Any

import grpc
import numpy as np
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS

from benchmarks.cases import Case

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 120.0
#: Loading and measuring every model takes less than this.
READY_TIMEOUT_S = 120.0
#: What the server sets before it imports gRPC; the reference servers import gRPC first.
OUR_GRPC = {"GRPC_EXPERIMENTS": "-event_engine_listener"}
CHANNEL = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

#: The models that a run of one row can keep more than one core busy with.
LARGE = ("resnet50", "encoder")

#: (command, additions to the environment) for a case, its model file, and a port; `scratch` may be written to.
Start = Callable[[Case, Path, int, Path], tuple[list[str], dict[str, str]]]


@dataclass(frozen=True)
class Contestant:
    """A server that can be started.

    Attributes:
        python: the interpreter of its environment, which `make bench-peers` makes where it isn't our own.
        only: the cases that it has something to say about; none of them means all.
        watched: whether it measures its model once it answers, and says by its health when it has.
    """

    name: str
    start: Start
    python: Path = Path(sys.executable)
    only: tuple[str, ...] = ()
    watched: bool = False

    def missing(self) -> str | None:
        """Why it can't take part; None if it can."""
        return None if self.python.exists() else f"{self.python.relative_to(ROOT)} is not there; run `make bench-peers`"


def contestants() -> list[Contestant]:
    """Every server there is to compare, ours among them."""
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
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A server that answers `case` rightly, and its processes."""

    def __init__(self, contestant: Contestant, case: Case, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.name = contestant.name
        self.port = port
        self._process = psutil.Process(process.pid)

    def processes(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def rss_mb(self) -> float:
        return float(sum(process.memory_info().rss for process in self.processes())) / 1e6


@contextlib.contextmanager
def running(contestant: Contestant, case: Case, model: Path, expected: dict[str, np.ndarray]) -> Iterator[Running]:
    """Starts a server, and makes sure that it gives the right answer.

    Raises:
        RuntimeError: it doesn't.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as log:
        command, environment = contestant.start(case, model, port, Path(scratch))
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            _await_right_answer(process, port, case, expected, log)
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


def message(case: Case) -> pb.ModelInferRequest:
    """The request of a case, as it goes over the wire."""
    request = pb.ModelInferRequest(model_name=case.name)
    for name, array in case.request().items():
        request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def await_ready(port: int) -> None:
    """Returns once every model of our server there is loaded and measured."""
    watched = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        changes = health_pb2_grpc.HealthStub(channel).Watch(watched, timeout=READY_TIMEOUT_S)
        next(change for change in changes if change.status == health_pb2.HealthCheckResponse.SERVING)


def _await_right_answer(
    process: "subprocess.Popen[bytes]", port: int, case: Case, expected: dict[str, np.ndarray], log: IO[bytes]
) -> None:
    path, request, until_s = METHODS["ModelInfer"].path, message(case).SerializeToString(), time.monotonic() + START_TIMEOUT_S
    last: object = None
    while time.monotonic() < until_s and process.poll() is None:
        channel: Any
        with grpc.insecure_channel(f"127.0.0.1:{port}", CHANNEL) as channel:
            try:
                answer = pb.ModelInferResponse.FromString(channel.unary_unary(path)(request, timeout=10))
            except grpc.RpcError as error:
                last = error
                time.sleep(0.2)
                continue
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=False):
            array = np.frombuffer(raw, np.float32).reshape(tensor.shape)
            np.testing.assert_allclose(array, expected[tensor.name], rtol=1e-3, atol=1e-3)
        return
    log.seek(0)
    raise RuntimeError(f"it did not answer {case.name}: {last}\n{log.read().decode(errors='replace')[-2000:]}")
