"""Starting and stopping: what a supervisor, a load balancer and a person at the terminal see."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from tests import models
from tests.servers import TRANSPORTS, Process, RunningServer, running
from tests.wire import arrays, refused, request

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with little in it, for servers that don't live long."""
    models.save(tmp_path, "add_sub", models.add_sub())
    models.save(tmp_path, "slow", models.countdown())
    models.save(tmp_path, "broken", b"this is no model")
    return tmp_path


@pytest.fixture
def own(small: Path, transport: str) -> Iterator[RunningServer]:
    """A server of the test's own, to be stopped by it."""
    with running(small, transport=transport) as server:
        yield server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_lets_what_is_in_flight_finish_and_exits_0(own: RunningServer, number: signal.Signals) -> None:
    slow = own.stub.ModelInfer.future(request("slow", {"n": np.array(600_000)}), timeout=20)
    own.health.Check(health_pb2.HealthCheckRequest())  # answered behind the call above
    own.process.signal(number)
    assert arrays(slow.result())["y"] == 600_000
    assert own.process.wait() == 0
    assert "Traceback" not in own.process.log


def test_grpc_does_what_its_options_say(small: Path, transport: str) -> None:
    limits = '{"grpc.max_metadata_size": 1024, "grpc.absolute_max_metadata_size": 1024}'
    with running(small, f"--grpc-options={limits}", transport=transport) as server:
        asked = health_pb2.HealthCheckRequest()
        assert server.health.Check(asked, metadata=(("word", "x" * 100),)).status == SERVING
        with refused("RESOURCE_EXHAUSTED", "metadata"):
            server.health.Check(asked, metadata=(("word", "x" * 4000),))


def test_a_watcher_sees_the_server_stop_serving_and_does_not_hold_it_up(own: RunningServer) -> None:
    watch = own.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watch).status == SERVING
    own.process.signal(signal.SIGTERM)
    assert next(watch).status == NOT_SERVING
    with refused("UNAVAILABLE", "shutting down"):
        next(watch)
    assert own.process.wait(timeout_s=3) == 0  # the drain timeout is 5 s


def test_readiness_turns_false_before_calls_are_refused(small: Path, transport: str) -> None:
    with running(small, "--drain-delay-s=5", transport=transport) as server:
        watch = server.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == SERVING
        server.process.signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert server.health.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
        inputs = {name: np.ones((1, 16), np.float32) for name in ("INPUT0", "INPUT1")}
        assert server.stub.ModelInfer(request("add_sub", inputs)).model_name == "add_sub"


def test_a_second_signal_means_now(small: Path, transport: str) -> None:
    with running(small, "--drain-delay-s=60", transport=transport) as server:
        server.process.signal(signal.SIGTERM)
        server.process.wait_for("draining")
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(timeout_s=5) != 0


def test_a_killed_server_is_unavailable_and_leaves_nothing_in_the_way_of_the_next(own: RunningServer, small: Path) -> None:
    slow = own.stub.ModelInfer.future(request("slow", {"n": np.array(10**9)}), timeout=20)
    own.health.Check(health_pb2.HealthCheckRequest())
    own.process.signal(signal.SIGKILL)
    assert slow.code() is grpc.StatusCode.UNAVAILABLE
    with running(small, f"--grpc-port={own.address.split(':')[1]}"):
        pass


@pytest.mark.parametrize("which", ["grpc", "metrics"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_port_in_use_ends_the_start_with_one_clear_line(small: Path, transport: str, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"grpc": 0, "metrics": 0, which: port}
        flags = [f"--{name}-port={number}" for name, number in ports.items()]
        process = Process(f"--model-repository={small}", *flags, *TRANSPORTS[transport])
        assert process.wait() == 1
    assert f"turnout-server: cannot listen on 127.0.0.1:{port}" in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        pytest.param(["--model-repository=/nowhere"], "--model-repository: /nowhere: it is not a directory", id="repository"),
        pytest.param(["--model-repository=/tmp", "--grpc-port=99999"], "--grpc-port: 99999", id="port"),
        pytest.param(["--model-repository=/tmp", "--default-device=tpu"], "unknown device 'tpu'", id="device"),
        pytest.param(["--model-repository=/tmp", "--config=/nowhere.toml"], "there is no file '/nowhere.toml'", id="config"),
        pytest.param([], "--model-repository is required", id="nothing"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_the_flag_the_value_and_the_reason(flags: list[str], text: str) -> None:
    process = Process(*flags)
    assert process.wait() == 2
    assert text in process.log
    assert "Traceback" not in process.log


def test_an_unknown_variable_ends_the_start_with_a_suggestion(small: Path) -> None:
    process = Process(f"--model-repository={small}", env={"TURNOUT_GRPC_PROT": "1"})
    assert process.wait() == 2
    assert "unknown environment variable TURNOUT_GRPC_PROT; did you mean TURNOUT_GRPC_PORT?" in process.log


def test_the_log_names_the_broken_model_and_the_ready_ones(own: RunningServer) -> None:
    own.process.wait_for(r"ERROR .*model broken.*model\.onnx")
    own.process.wait_for(r"INFO .*model add_sub version 1 is ready on cpu")


def test_nothing_is_written_below_home(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    with running(small, env=dict.fromkeys(names, os.fspath(home))) as server:
        inputs = {name: np.ones((1, 16), np.float32) for name in ("INPUT0", "INPUT1")}
        server.stub.ModelInfer(request("add_sub", inputs))
    assert list(home.rglob("*")) == []
