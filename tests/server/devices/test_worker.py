import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, InternalError, InvalidRequest, Overloaded, internal_error
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import device as devices
from turnout_server.devices import messages, worker
from turnout_server.devices.memory_layouts import MemoryLayout, layout_of
from turnout_server.devices.tensor_memory import TensorMemory
from turnout_server.devices.worker import Worker

from tests import models


class Failing(Worker):
    """A worker with a command that raises."""

    def __init__(self, error: BaseException, cause: BaseException | None = None, *, works: bool = True) -> None:
        super().__init__(devices.cpu())
        self._error = error
        self._cause = cause
        self._works = works

    def fail(self) -> None:
        raise self._error from self._cause

    def probe(self) -> str | None:
        return None if self._works else "nothing runs"


class Peer:
    """The other end of a worker's connection."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        self._connection = messages.Connection(self.socket)
        self._thread = threading.Thread(target=self._serve, args=(serve, theirs))
        self._thread.start()

    def _serve(self, serve: Callable[[socket.socket], None], theirs: socket.socket) -> None:
        with theirs:
            serve(theirs)

    def send(self, message: bytes) -> tuple[str, Any]:
        self._connection.send(message)
        return messages.outcome_of(self._connection.receive())

    def say(self, *command: object) -> tuple[str, Any]:
        return self.send(messages.call(*command))

    def hang_up(self) -> None:
        self.socket.close()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()


def outcome(error: BaseException, cause: BaseException | None = None, *, works: bool = True) -> tuple[str, Any]:
    """What the parent of a worker hears of a command that fails so."""
    peer = Peer(Failing(error, cause, works=works).obey)
    try:
        return peer.say("fail")
    finally:
        peer.hang_up()


@pytest.mark.parametrize("error", [InvalidRequest("wrong"), Overloaded("too much"), internal_error()])
def test_an_error_fit_for_the_caller_survives_its_journey(error: Exception) -> None:
    kind, arrived = outcome(error)
    assert (kind, type(arrived), str(arrived)) == ("error", type(error), str(error))


def test_the_cause_of_an_internal_error_survives_its_journey_for_the_operator() -> None:
    error = internal_error()
    error.cause = "CUDNN_STATUS_BAD_PARAM"
    assert outcome(error)[1].cause == "CUDNN_STATUS_BAD_PARAM"


@pytest.mark.parametrize("text", ["an illegal memory access", "unspecified launch failure", "CUDNN_STATUS_EXECUTION_FAILED"])
def test_what_cuda_says_of_a_lost_context_ends_the_process_however_it_is_wrapped(text: str) -> None:
    cause = RuntimeError(f"CUDA failure: {text} was encountered ; GPU=0")
    assert outcome(internal_error(), cause) == ("sticky", str(cause))
    assert outcome(FailedPrecondition(f"cannot load: {text}"))[0] == "sticky"


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 999: unknown error",
        "CUDA failure 46: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA failure 100: no CUDA-capable device is detected",
        "CUBLAS failure 14: CUBLAS_STATUS_INTERNAL_ERROR",
        "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED_CUDART",
        "CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA failure 901: operation failed due to a previous error during capture",
    ],
)
def test_a_suspicious_error_ends_the_process_if_a_test_run_fails_too(text: str) -> None:
    assert outcome(internal_error(), RuntimeError(text), works=False)[0] == "sticky"


def test_a_suspicious_error_of_one_model_harms_no_other_if_a_test_run_succeeds() -> None:
    assert outcome(internal_error(), RuntimeError("CUDNN_STATUS_INTERNAL_ERROR"))[0] == "error"
    assert outcome(Overloaded("CUDA failure 2: out of memory"), works=False)[0] == "error"


def test_an_unexpected_exception_is_an_internal_error_whose_id_the_log_explains(caplog: pytest.LogCaptureFixture) -> None:
    kind, error = outcome(KeyError(7))
    assert (kind, type(error)) == ("error", InternalError)
    assert str(error) in caplog.text
    assert "KeyError: 7" in caplog.text


def test_it_answers_until_the_other_side_hangs_up() -> None:
    peer = Peer(Worker(devices.cpu()).obey)
    assert [peer.say("close", 1) for _ in range(3)] == [("ok", None)] * 3
    peer.hang_up()


def test_half_a_message_is_the_end_too() -> None:
    peer = Peer(Worker(devices.cpu()).obey)
    peer.socket.sendall(b"\x05\x00\x00\x00\x00\x80")
    peer.hang_up()


class Served:
    """A worker with a model that adds and subtracts rows of two numbers, and one of its slots."""

    def __init__(self, root: Path, buckets: tuple[int, ...] = (), *, graphs: bool = False) -> None:
        models.save(root, "m", models.add_sub(2))
        self.worker = Worker(devices.cpu())
        self.opened = self.worker.open(5, str(root / "m/1/model.onnx"), RuntimeOptions(), buckets, graphs)
        self.memory = TensorMemory()
        self._theirs = TensorMemory(os.dup(self.memory.descriptor))
        self.peer = Peer(lambda slot: self.worker.run_slot(slot, self._theirs))

    def layout(self, rows: int, bucket: int = 0, outputs: tuple[str, ...] = ("OUTPUT1", "OUTPUT0")) -> MemoryLayout:
        inputs, specs, *_ = self.opened
        by_name = {spec.name: spec for spec in specs}
        shapes = dict.fromkeys(("INPUT0", "INPUT1"), (rows, 2))
        layout = layout_of(shapes, inputs, [by_name[name] for name in outputs], rows, bucket)
        assert layout is not None
        return layout

    def write(self, layout: MemoryLayout, value: float) -> None:
        self.memory.reserve(layout.size)
        for placed in layout.inputs:
            self.memory.view(placed)[...] = value

    def read(self, layout: MemoryLayout) -> list[list[list[float]]]:
        return [self.memory.view(placed).tolist() for placed in layout.placed]

    def stop(self) -> None:
        self.peer.hang_up()
        self.memory.close()
        self._theirs.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.stop()


def test_a_model_is_opened_and_says_what_it_is(served: Served) -> None:
    assert served.worker.probe() is None
    inputs, outputs, placement, buckets, notes = served.opened
    assert [spec.name for spec in (*inputs, *outputs)] == ["INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1"]
    assert (dict(placement), buckets, notes) == ({"CPUExecutionProvider": 2}, (), [])


def test_a_run_reads_and_writes_where_its_layout_says(served: Served) -> None:
    layout = served.layout(1)
    served.write(layout, 1)
    assert served.peer.send(messages.describe_and_run(9, 5, layout)) == ("ok", {})
    assert served.read(layout) == [[[0, 0]], [[2, 2]]]
    served.write(layout, 3)
    assert served.peer.send(messages.run(9, layout.size)) == ("ok", {})
    assert served.read(layout) == [[[0, 0]], [[6, 6]]]


def test_a_larger_run_gets_more_memory_and_the_smaller_one_still_works(served: Served) -> None:
    small, large = served.layout(1), served.layout(100_000)
    for uid, layout in ((1, small), (2, large), (1, small)):
        served.write(layout, uid)
        assert served.peer.send(messages.describe_and_run(uid, 5, layout))[0] == "ok"
        assert served.read(layout)[1][0] == [2 * uid] * 2


def test_a_layout_that_it_does_not_know_must_be_described(served: Served) -> None:
    layout = served.layout(1)
    assert served.peer.send(messages.run(9, layout.size)) == ("unknown layout", None)


def test_layouts_beyond_the_limit_are_forgotten_the_oldest_first(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_LAYOUTS", 2)
    layout = served.layout(1)
    served.write(layout, 1)
    for uid in (1, 2, 3):
        served.peer.send(messages.describe_and_run(uid, 5, layout))
    assert [served.peer.send(messages.run(uid, layout.size))[0] for uid in (1, 2, 3)] == ["unknown layout", "ok", "ok"]


def test_a_model_is_closed_by_its_number_and_closing_it_twice_is_no_error(served: Served) -> None:
    served.worker.close(5)
    served.worker.close(5)
    assert served.peer.send(messages.describe_and_run(9, 5, served.layout(1)))[0] == "error"
    assert served.peer.say("run", 5, {}, ["OUTPUT0"], 0.0)[0] == "error"


def test_tensors_may_also_be_described_in_every_message(served: Served) -> None:
    row = np.ones((1, 2), np.float32)
    kind, references = served.peer.say("run", 5, served.memory.put({"INPUT0": row, "INPUT1": row}), ["OUTPUT1", "OUTPUT0"], 0.0)
    assert kind == "ok"
    assert {name: array.tolist() for name, array in served.memory.get(references).items()} == {
        "OUTPUT1": [[0, 0]],
        "OUTPUT0": [[2, 2]],
    }


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "sessions"])
def test_a_padded_run_is_that_of_its_bucket(tmp_path: Path, graphs: bool) -> None:
    served = Served(tmp_path, (2, 8), graphs=graphs)
    assert served.opened[3] == (2, 8)
    layout = served.layout(8, bucket=8)
    served.write(layout, 2)
    assert served.peer.send(messages.describe_and_run(1, 5, layout)) == ("ok", {})
    assert served.read(layout)[1] == [[4, 4]] * 8
    plain = served.layout(9)
    served.write(plain, 1)
    assert served.peer.send(messages.describe_and_run(2, 5, plain)) == ("ok", {})
    assert served.read(plain)[1] == [[2, 2]] * 9
    served.stop()


def test_a_model_that_cannot_have_graphs_gets_sessions_or_none_and_says_why(tmp_path: Path) -> None:
    models.save(tmp_path, "m", models.add_constant(1))
    *_, buckets, notes = Worker(devices.cpu()).open(1, str(tmp_path / "m/1/model.onnx"), RuntimeOptions(), (2, 8), True)
    assert buckets == (2, 8)
    assert notes == ["no CUDA graphs: 'x' has the shape [-1, -1], and only the first axis may be free"]
    models.save(tmp_path, "text", models.identity("BYTES", ("n",)))
    *_, buckets, notes = Worker(devices.cpu()).open(1, str(tmp_path / "text/1/model.onnx"), RuntimeOptions(), (2, 8), True)
    assert buckets == ()
    assert notes[-1] == "runs are not padded: 'INPUT' is BYTES, which is not padded"


def test_the_limit_is_on_top_of_what_the_process_has_already() -> None:
    code = """
import numpy as np
from turnout_server.devices.worker import limit_memory
ballast = np.ones(2**24)
limit_memory(2**26)
held = np.ones(2**22)
try:
    np.ones(2**23)
except MemoryError:
    print("refused")
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
        == "refused\n"
    )


def test_it_never_loads_grpc() -> None:
    code = f"import sys; import {worker.__name__}; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
