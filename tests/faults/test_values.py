"""Values that end a process, or keep it busy without an end: only their own requests fail."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests import models
from tests.faulty import until
from tests.servers import RunningServer, running
from tests.wire import arrays, parameters, refused, request

ROW = {name: np.ones((1, 16), np.float32) for name in ("INPUT0", "INPUT1")}
POISON: dict[str, dict[str, np.ndarray]] = {
    "INT32": {"a": np.array([-(2**31)], np.int32), "b": np.array([-1], np.int32)},
    "INT64": {"a": np.array([-(2**63)], np.int64), "b": np.array([-1], np.int64)},
}
FOR_EVER = {"n": np.array(2**62)}
IN_PROCESS = '--device=cpu={isolation="in-process"}'


def repository(root: Path) -> Path:
    models.save(root, "add_sub", models.add_sub())
    for datatype in POISON:
        models.save(root, f"Div-{datatype}", models.divide(datatype))
    models.save(root, "countdown", models.countdown())
    return root


@pytest.fixture(params=["completion-queue", "aio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    with running(repository(tmp_path / "models"), transport=request.param) as server:
        yield server


def answered(server: RunningServer, asked: pb.ModelInferRequest) -> bool:
    """Whether a request is answered now; UNAVAILABLE is the only other thing that may happen."""
    call = server.stub.ModelInfer.future(asked, timeout=10)
    assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    return bool(call.code() is grpc.StatusCode.OK)


def assert_others_are_served(server: RunningServer) -> None:
    assert server.stub.ServerLive(pb.ServerLiveRequest(), timeout=2).live
    answer = server.stub.ModelInfer(request("add_sub", ROW), timeout=2)
    assert arrays(answer)["OUTPUT0"].tolist() == [[2.0] * 16]
    assert server.process.pid


@pytest.mark.parametrize("datatype", POISON)
def test_47_a_division_that_ends_its_process_fails_alone(server: RunningServer, datatype: str) -> None:
    model = f"Div-{datatype}"
    harmless = {name: np.array([6 if name == "a" else 4], array.dtype) for name, array in POISON[datatype].items()}
    right = [1]
    assert arrays(server.stub.ModelInfer(request(model, harmless)))["c"].tolist() == right
    with refused("UNAVAILABLE", "was killed by SIGFPE"):
        server.stub.ModelInfer(request(model, POISON[datatype]), timeout=10)
    assert_others_are_served(server)

    until(lambda: answered(server, request(model, harmless)))
    assert arrays(server.stub.ModelInfer(request(model, harmless)))["c"].tolist() == right


def test_a_request_that_ended_a_process_is_not_tried_on_another_device(tmp_path: Path) -> None:
    child = '--device=cpu:child={threads=1,isolation="process"}'
    with running(repository(tmp_path / "models"), IN_PROCESS, child) as server:
        lethal = request("Div-INT32", POISON["INT32"], parameters={"device": "cpu:child,cpu"})
        with refused("UNAVAILABLE", "'cpu:child' was lost: its process was killed by SIGFPE"):
            server.stub.ModelInfer(lethal, timeout=10)
        assert_others_are_served(server)


def test_67_an_endless_run_ends_at_its_deadline_and_keeps_nobody_else_waiting(server: RunningServer) -> None:
    endless = server.stub.ModelInfer.future(request("countdown", FOR_EVER), timeout=1.5)
    time.sleep(0.2)
    assert_others_are_served_within(server, 1.0)
    with refused("DEADLINE_EXCEEDED"):
        endless.result()
    short = server.stub.ModelInfer(request("countdown", {"n": np.array(7)}), timeout=5)
    assert arrays(short)["y"].tolist() == 7
    assert_others_are_served(server)


def test_67_in_the_servers_process_it_ends_as_well(tmp_path: Path) -> None:
    with running(repository(tmp_path / "models"), IN_PROCESS) as server:
        endless = server.stub.ModelInfer.future(request("countdown", FOR_EVER), timeout=1)
        time.sleep(0.2)
        assert server.stub.ServerLive(pb.ServerLiveRequest(), timeout=0.5).live
        with refused("DEADLINE_EXCEEDED"):
            endless.result()
        assert_others_are_served(server)


def test_what_runs_in_a_process_of_its_own_is_said_with_the_reason(server: RunningServer) -> None:
    config = server.stub.ModelConfig(pb.ModelConfigRequest(name="Div-INT32")).config
    assert "Div 'c' divides integers by a value of the request" in config.parameters["turnout.report.cpu"].string_value
    plain = server.stub.ModelConfig(pb.ModelConfigRequest(name="add_sub")).config
    assert "process of its own" not in plain.parameters["turnout.report.cpu"].string_value
    assert parameters(server.stub.ModelInfer(request("countdown", {"n": np.array(1)})))["device"] == "cpu"


def assert_others_are_served_within(server: RunningServer, timeout_s: float) -> None:
    """Liveness doesn't depend on any device; runs of the busy one wait."""
    assert server.stub.ServerLive(pb.ServerLiveRequest(), timeout=timeout_s).live
