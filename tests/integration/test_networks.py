"""Addresses that servers listen on: IPv6, unix sockets, taken ones; and environments with a proxy."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from turnout_loadtests.client import connect, server_name

from tests import models
from tests.servers import IPV6, START_TIMEOUT_S, TRANSPORTS, Process

QUICK = ("--drain-delay-s=0", "--drain-timeout-s=5", "--profile-budget-s=0")
NO_PROXY = [("grpc.enable_http_proxy", 0)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.save(tmp_path / "models", "m", models.mlp())
    return tmp_path / "models"


@contextmanager
def started(repository: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Process]:
    process = Process(f"--model-repository={repository}", "--grpc-port=0", "--metrics-port=0", *QUICK, *flags, env=env)
    try:
        yield process
    finally:
        process.end()


def addresses(process: Process) -> tuple[str, str]:
    """The gRPC and the metrics address that a server has logged."""
    match = process.wait_for(r"gRPC on (\S+), metrics on (\S+)")
    return match[1], match[2]


def assert_ready(address: str) -> None:
    with grpc.insecure_channel(address, NO_PROXY) as channel:
        changes = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S)
        assert next(change for change in changes if change.status == health_pb2.HealthCheckResponse.SERVING)
        changes.cancel()


def readyz(address: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def on(host: str, address: str) -> str:
    """The same port on another host."""
    return f"{host}:{address.rpartition(':')[2]}"


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [
        pytest.param("::1", ["[::1]"], marks=IPV6),
        pytest.param("[::]", ["[::1]", "127.0.0.1"], marks=IPV6),
        pytest.param("::", ["[::1]", "127.0.0.1"], marks=IPV6),
        ("localhost", ["127.0.0.1"]),
    ],
)
def test_both_ports_are_on_the_address_that_was_asked_for(
    repository: Path, transport: str, host: str, reached_at: list[str]
) -> None:
    with started(repository, f"--host={host}", *TRANSPORTS[transport]) as process:
        rpc, metrics = addresses(process)
        for reached in reached_at:
            assert_ready(on(reached, rpc))
            assert readyz(on(reached, metrics)) == 200


@pytest.mark.parametrize("prefix", ["unix:", "unix://"])
def test_grpc_listens_on_a_unix_socket_and_metrics_on_loopback(
    repository: Path, tmp_path: Path, transport: str, prefix: str
) -> None:
    host = f"{prefix}{tmp_path / 'turnout.sock'}"
    with started(repository, f"--host={host}", *TRANSPORTS[transport]) as process:
        rpc, metrics = addresses(process)
        assert rpc == f"unix:{tmp_path / 'turnout.sock'}"
        assert_ready(rpc)
        assert readyz(metrics) == 200
        with started(repository, f"--host={host}") as second:
            assert second.wait(START_TIMEOUT_S) == 1
            assert f"cannot listen on {rpc}: another process listens there" in second.log
        assert_ready(rpc)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--host=192.0.2.1"], "cannot listen on 192.0.2.1:0: this machine has no such address"),
        pytest.param(["--host=2001:db8::1"], "cannot listen on [2001:db8::1]:0: this machine has no such address", marks=IPV6),
        (["--host=unix:/nowhere/at/all.sock"], "cannot listen on unix:/nowhere/at/all.sock: there is no directory /nowhere/at"),
    ],
)
def test_a_server_that_cannot_listen_says_why_in_one_line(repository: Path, flags: list[str], text: str) -> None:
    with started(repository, *flags) as process:
        assert process.wait(START_TIMEOUT_S) == 1
        (line,) = [line for line in process.log.splitlines() if line.startswith("turnout-server: ")]
        assert text in line
        assert "Traceback" not in process.log


@pytest.mark.parametrize("flag", ["--grpc-port", "--metrics-port"])
def test_a_taken_port_is_called_that_on_either_port(repository: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(repository, f"{flag}={port}") as process:
            assert process.wait(START_TIMEOUT_S) == 1
            assert f"cannot listen on 127.0.0.1:{port}: another process listens there" in process.log


@pytest.mark.parametrize("variable", ["http_proxy", "grpc_proxy"])
def test_a_proxy_in_the_environment_is_not_asked_for_the_way_to_this_machine(
    repository: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    proxy = "http://127.0.0.1:9"  # nothing listens there
    with started(repository, env={variable: proxy}) as process:
        rpc, _ = addresses(process)
        assert "using grpc.aio" not in process.log
        monkeypatch.setenv(variable, proxy)
        assert server_name(connect(rpc)).startswith("turnout ")
