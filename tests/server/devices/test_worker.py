import io
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, InternalError, InvalidRequest, Overloaded, internal_error
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import device as devices
from turnout_server.devices import worker as child
from turnout_server.devices.device import Device
from turnout_server.devices.sessions import OnnxSession
from turnout_server.devices.tensor_memory import TensorMemory
from turnout_server.devices.worker import STICKY, Worker, answer, outcome

from tests import models


def _raising(error: BaseException, cause: BaseException | None = None) -> Any:
    def call() -> None:
        raise error from cause

    return call


def test_a_result_is_ok() -> None:
    assert outcome(lambda a, b: a + b, 1, 2) == ("ok", 3)


@pytest.mark.parametrize("error", [InvalidRequest("wrong"), Overloaded("too much"), internal_error()])
def test_an_error_fit_for_the_caller_survives_its_journey(error: Exception) -> None:
    kind, arrived = pickle.loads(pickle.dumps(outcome(_raising(error))))
    assert (kind, type(arrived), str(arrived)) == ("error", type(error), str(error))


@pytest.mark.parametrize("text", STICKY)
def test_what_cuda_says_of_a_lost_context_ends_the_process_however_it_is_wrapped(text: str) -> None:
    cause = RuntimeError(f"CUDA failure: {text} was encountered ; GPU=0")
    assert outcome(_raising(internal_error(), cause)) == ("sticky", str(cause))
    assert outcome(_raising(FailedPrecondition(f"cannot load: {text}")))[0] == "sticky"


def test_what_nobody_expected_is_an_internal_error_whose_id_the_log_explains(caplog: pytest.LogCaptureFixture) -> None:
    kind, error = outcome(_raising(KeyError(7)))
    assert (kind, type(error)) == ("error", InternalError)
    assert str(error) in caplog.text
    assert "KeyError: 7" in caplog.text


def _pair() -> tuple[BinaryIO, BinaryIO]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return cast(BinaryIO, ours.makefile("rwb")), cast(BinaryIO, theirs.makefile("rwb"))


def _say(stream: BinaryIO, *message: object) -> Any:
    stream.write(pickle.dumps(message))
    stream.flush()
    return pickle.load(stream)


def test_it_answers_until_the_other_side_hangs_up() -> None:
    ours, theirs = _pair()
    with theirs:
        thread = threading.Thread(target=answer, args=(theirs, lambda a, b: a * b))
        thread.start()
        with ours:
            assert [_say(ours, 2, n) for n in range(3)] == [("ok", 0), ("ok", 2), ("ok", 4)]
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_half_a_message_is_the_end_too() -> None:
    answer(cast(BinaryIO, io.BytesIO(pickle.dumps(("x",))[:-3])), lambda text: text)


def test_a_model_is_opened_run_and_closed_by_its_number(tmp_path: Path) -> None:
    models.save(tmp_path, "m", models.add_sub(2))
    served = Worker(devices.cpu())
    assert served.probe() is None
    inputs, outputs, placement = served.open(5, str(tmp_path / "m/1/model.onnx"), RuntimeOptions())
    assert [spec.name for spec in (*inputs, *outputs)] == ["INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1"]
    assert dict(placement) == {"CPUExecutionProvider": 2}
    memory = TensorMemory()
    ours, theirs = _pair()
    thread = threading.Thread(target=served.run_slot, args=(theirs, memory))
    thread.start()
    row = np.ones((1, 2), np.float32)
    with theirs, ours:
        kind, places = _say(ours, "run", 5, memory.put({"INPUT0": row, "INPUT1": row}), ["OUTPUT1", "OUTPUT0"])
        assert kind == "ok"
        assert [array.tolist() for array in memory.get(places).values()] == [[[0, 0]], [[2, 2]]]
        served.close(5)
        served.close(5)  # whoever says it twice is right, too
        assert _say(ours, "run", 5, {}, ["OUTPUT0"])[0] == "error"
        ours.close()
        thread.join(timeout=10)
    memory.close()


def test_each_lane_of_a_gpu_has_a_session_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models.save(tmp_path, "m", models.add_constant(1))
    opened: list[OnnxSession] = []
    ran: list[OnnxSession] = []

    class Noted(OnnxSession):
        def __init__(self, path: Path, device: Device, options: RuntimeOptions) -> None:
            super().__init__(path, devices.cpu(), options)
            opened.append(self)

        def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
            ran.append(self)
            return super().run(inputs, outputs)

    monkeypatch.setattr(child, "OnnxSession", Noted)
    served = Worker(replace(devices.cuda(0), instances=2))
    served.open(1, str(tmp_path / "m/1/model.onnx"), RuntimeOptions())
    for index in (1, 0):
        memory = TensorMemory()
        message = pickle.dumps(("run", 1, memory.put({"x": np.ones((1, 2), np.float32)}), ["y"]))
        answers = io.BytesIO()
        lane = io.BufferedRWPair(io.BytesIO(message), answers)
        served.run_slot(cast(BinaryIO, lane), memory, index)
        assert pickle.loads(answers.getvalue())[0] == "ok"
        memory.close()
    assert ran == [opened[1], opened[0]]


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
    code = f"import sys; import {child.__name__}; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
