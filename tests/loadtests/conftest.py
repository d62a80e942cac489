"""Servers of known latency, and small parts that many tests need."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from turnout_proto.methods import Stub

Devices = dict[str, dict[str, Any]]
#: What `fake` serves: a fast device, a slow one, and one that refuses everything.
USUAL: Devices = {"cpu": {"ms": 2}, "slow": {"ms": 500}, "failing": {"fails_share": 1.0}}


@pytest.fixture(scope="session", autouse=True)
def without_locust() -> Iterator[None]:
    """Locust changes the standard library of the process that imports it, so that processes started here would fail."""
    yield
    assert "locust" not in sys.modules


class Fake:
    """A running fake server."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self._process = process
        self.address = address

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the server, such as SIGSTOP."""
        self._process.send_signal(number)


@contextmanager
def serving(devices: Devices) -> Iterator[Fake]:
    """A server of these devices in a process of its own."""
    command = [sys.executable, "-m", "tests.loadtests.fake_server", json.dumps(devices)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Fake(process, f"127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


@pytest.fixture(scope="session")
def fake() -> Iterator[str]:
    """The address of a server of the usual devices."""
    with serving(USUAL) as server:
        yield server.address


@pytest.fixture
def serve() -> Iterator[Callable[[Devices], Fake]]:
    """Starts servers that end with the test."""
    running: list[Any] = []

    def start(devices: Devices) -> Fake:
        running.append(serving(devices))
        server: Fake = running[-1].__enter__()
        return server

    yield start
    for each in running:
        each.__exit__(None, None, None)


@pytest.fixture
def stub(fake: str) -> Iterator[Stub]:
    with grpc.insecure_channel(fake) as channel:
        yield Stub(channel)


@pytest.fixture
def closed_port() -> int:
    """A port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
