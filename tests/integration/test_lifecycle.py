"""Tests of starting and stopping, as a supervisor, a load balancer and an operator see it."""

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
    """A repository with few models, for servers that only one test uses."""
    models.save(tmp_path, "add_sub", models.add_sub())
    models.save(tmp_path, "slow", models.countdown())
    models.save(tmp_path, "broken", b"this is no model")
    return tmp_path


@pytest.fixture
def own(small: Path, transport: str) -> Iterator[RunningServer]:
    """A server that only this test uses and may stop."""
    with running(small, transport=transport) as server:
        yield server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_waits_for_requests_in_flight_and_exits_with_0(own: RunningServer, number: signal.Signals) -> None:
    slow = own.stub.ModelInfer.future(request("slow", {"n": np.array(600_000)}), timeout=20)
    own.health.Check(health_pb2.HealthCheckRequest())  # when this returns, the call above has arrived
    own.process.signal(number)
    assert arrays(slow.result())["y"] == 600_000
    assert own.process.wait() == 0
    assert "Traceback" not in own.process.log


def test_grpc_options_take_effect(small: Path, transport: str) -> None:
    limits = '{"grpc.max_metadata_size": 1024, "grpc.absolute_max_metadata_size": 1024}'
    with running(small, f"--grpc-options={limits}", transport=transport) as server:
        health_request = health_pb2.HealthCheckRequest()
        assert server.health.Check(health_request, metadata=(("word", "x" * 100),)).status == SERVING
        with refused("RESOURCE_EXHAUSTED", "metadata"):
            server.health.Check(health_request, metadata=(("word", "x" * 4000),))


def test_a_watcher_is_notified_of_the_stop_and_does_not_delay_it(own: RunningServer) -> None:
    watch = own.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watch).status == SERVING
    own.process.signal(signal.SIGTERM)
    assert next(watch).status == NOT_SERVING
    with refused("UNAVAILABLE", "shutting down"):
        next(watch)
    assert own.process.wait(timeout_s=3) == 0  # the drain timeout is 5 s


def test_readiness_becomes_false_before_calls_are_refused(small: Path, transport: str) -> None:
    with running(small, "--drain-delay-s=5", transport=transport) as server:
        watch = server.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == SERVING
        server.process.signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert server.health.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
        inputs = {name: np.ones((1, 16), np.float32) for name in ("INPUT0", "INPUT1")}
        assert server.stub.ModelInfer(request("add_sub", inputs)).model_name == "add_sub"


def test_94_a_second_signal_stops_the_server_at_once(small: Path, transport: str) -> None:
    with running(small, "--drain-delay-s=60", transport=transport) as server:
        server.process.signal(signal.SIGTERM)
        server.process.wait_for("draining")
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(timeout_s=5) != 0


def test_96_a_killed_server_is_unavailable_and_its_port_can_be_reused(own: RunningServer, small: Path) -> None:
    slow = own.stub.ModelInfer.future(request("slow", {"n": np.array(10**9)}), timeout=20)
    own.health.Check(health_pb2.HealthCheckRequest())
    own.process.signal(signal.SIGKILL)
    assert slow.code() is grpc.StatusCode.UNAVAILABLE
    with running(small, f"--grpc-port={own.address.split(':')[1]}"):
        pass


@pytest.mark.parametrize("which", ["grpc", "metrics"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_98_a_port_in_use_prevents_the_start_with_a_clear_message(small: Path, transport: str, which: str) -> None:
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
        pytest.param(
            ["--model-repository=/nowhere"], "--model-repository: /nowhere: there is no such directory", id="repository"
        ),
        pytest.param(["--model-repository=/tmp", "--grpc-port=99999"], "--grpc-port: 99999", id="port"),
        pytest.param(["--model-repository=/tmp", "--default-device=tpu"], "unknown device 'tpu'", id="device"),
        pytest.param(["--model-repository=/tmp", "--config=/nowhere.toml"], "there is no file '/nowhere.toml'", id="config"),
        pytest.param([], "--model-repository is required", id="nothing"),
    ],
)
def test_123_an_invalid_setting_prevents_the_start_with_the_flag_the_value_and_the_reason(flags: list[str], text: str) -> None:
    process = Process(*flags)
    assert process.wait() == 2
    assert text in process.log
    assert "Traceback" not in process.log


def test_123_an_unknown_variable_prevents_the_start_with_a_suggestion(small: Path) -> None:
    process = Process(f"--model-repository={small}", env={"TURNOUT_GRPC_PROT": "1"})
    assert process.wait() == 2
    assert "unknown environment variable TURNOUT_GRPC_PROT; did you mean TURNOUT_GRPC_PORT?" in process.log


def test_the_log_names_broken_and_ready_models(own: RunningServer) -> None:
    own.process.wait_for(r"ERROR .*model broken.*model\.onnx")
    own.process.wait_for(r"INFO .*model add_sub version 1 is ready on cpu")


def test_the_server_writes_nothing_to_the_home_directory(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    with running(small, env=dict.fromkeys(names, os.fspath(home))) as server:
        inputs = {name: np.ones((1, 16), np.float32) for name in ("INPUT0", "INPUT1")}
        server.stub.ModelInfer(request("add_sub", inputs))
    assert list(home.rglob("*")) == []
