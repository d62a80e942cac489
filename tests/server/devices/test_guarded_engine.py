from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.errors import DeadlineExceeded, DeviceLost
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import device as devices
from turnout_server.devices import engines
from turnout_server.devices.guarded_engine import GuardedEngine
from turnout_server.devices.remote_session import RemoteSession
from turnout_server.devices.run_limit import within
from turnout_server.devices.sessions import OnnxSession

from tests import models


@pytest.fixture
def engine() -> Iterator[GuardedEngine]:
    started = engines.start(replace(devices.cpu(), threads=1), lambda: None)
    assert isinstance(started, GuardedEngine)
    yield started
    started.stop()


def test_a_harmless_model_is_opened_in_this_process_and_a_hazardous_one_is_not(engine: GuardedEngine, tmp_path: Path) -> None:
    models.save(tmp_path, "plain", models.add_constant(1))
    models.save(tmp_path, "divide", models.divide())
    plain = engine.open(tmp_path / "plain/1/model.onnx", RuntimeOptions())
    divide = engine.open(tmp_path / "divide/1/model.onnx", RuntimeOptions())
    assert (type(plain), type(divide)) == (OnnxSession, RemoteSession)
    assert divide.run({"a": np.array([7], np.int32), "b": np.array([2], np.int32)}, ["c"])[0].tolist() == [3]
    assert engine.restarts == 0


def test_its_end_is_a_loss_of_the_hazardous_model_only(engine: GuardedEngine, tmp_path: Path) -> None:
    models.save(tmp_path, "divide", models.divide())
    divide = engine.open(tmp_path / "divide/1/model.onnx", RuntimeOptions())
    with pytest.raises(DeviceLost, match="SIGFPE") as caught:
        divide.run({"a": np.array([-(2**31)], np.int32), "b": np.array([-1], np.int32)}, ["c"])
    assert caught.value.suspect
    assert engine.unavailable_reason() is None
    engine.await_ready(10)
    assert engine.restarts <= 1


@pytest.mark.parametrize("isolated", [False, True], ids=["in process", "child"])
def test_an_endless_run_ends_when_its_time_is_up(tmp_path: Path, isolated: bool) -> None:
    models.save(tmp_path, "countdown", models.countdown())
    engine = engines.start(replace(devices.cpu(), threads=1, guarded=False, isolated=isolated), lambda: None)
    try:
        session = engine.open(tmp_path / "countdown/1/model.onnx", RuntimeOptions())
        with within(0.3), pytest.raises(DeadlineExceeded, match="Deadline Exceeded: the run was ended"):
            session.run({"n": np.array(2**62)}, ["y"])
        assert session.run({"n": np.array(3)}, ["y"])[0] == 3
    finally:
        engine.stop()
