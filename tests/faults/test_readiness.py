"""Readiness under each policy while a device process is really gone: all ways to ask agree."""

import urllib.error
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2
from turnout_proto import inference_pb2 as pb

from tests import models
from tests.faults.conftest import DEVICES, ISOLATED, ROW
from tests.faulty import Faults, until
from tests.servers import RunningServer, running
from tests.wire import parameters, request

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def page(server: RunningServer, path: str) -> int:
    """The status of a page of the metrics port."""
    try:
        with urllib.request.urlopen(f"{server.monitoring}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def readiness(server: RunningServer) -> set[bool]:
    """The answers of the three ways to ask a server."""
    health = server.health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
    return {
        page(server, "/readyz") == 200,
        server.stub.ServerReady(pb.ServerReadyRequest(), timeout=10).ready,
        health == SERVING,
    }


def up(server: RunningServer) -> bool:
    with urllib.request.urlopen(f"{server.monitoring}/metrics", timeout=10) as answer:
        return f'turnout_device_up{{device="{ISOLATED}"}} 1.0' in answer.read().decode()


@pytest.mark.parametrize(("ready_when", "ready_without"), [("any", True), ("all", False), ("cpu", True), (ISOLATED, False)])
def test_a_server_is_ready_without_a_device_only_if_its_policy_allows_it(
    tmp_path: Path, ready_when: str, ready_without: bool
) -> None:
    for name in ("models", "faults"):
        (tmp_path / name).mkdir()
    models.save(tmp_path / "models", "adds", models.add_constant(1))
    (tmp_path / "turnout.toml").write_text(DEVICES)
    faults = Faults(tmp_path / "faults")
    flags = [f"--config={tmp_path / 'turnout.toml'}", f"--ready-when={ready_when}"]
    with running(tmp_path / "models", *flags, env=faults.environment) as server:
        watch = server.health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        faults.at("start", *["exit"] * 50)  # it stays down until the faults are cleared
        (worker,) = psutil.Process(server.process.pid).children()
        worker.kill()
        until(lambda: not up(server))
        assert readiness(server) == {ready_without}
        assert page(server, "/healthz") == 200  # the server process is alive
        answered = parameters(server.stub.ModelInfer(request("adds", ROW, parameters={"device": f"{ISOLATED},cpu"})))
        assert answered["device"] == "cpu"
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            server.stub.ModelInfer(request("adds", ROW, parameters={"device": ISOLATED}))
        if not ready_without:
            assert next(watch).status == NOT_SERVING
        faults.clear()
        until(lambda: up(server), timeout_s=30)
        assert readiness(server) == {True}
        if not ready_without:
            assert next(watch).status == SERVING
        watch.cancel()
