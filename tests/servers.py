"""Starts, observes and stops real `turnout-server` processes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from turnout_proto.methods import Stub

#: The transports that every wire test runs over, with the flags that select them. A new entry is tested, too.
TRANSPORTS: dict[str, list[str]] = {name: [f"--transport={name}"] for name in ("completion-queue", "aio")}


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


#: For tests, and parameters of tests, that listen on IPv6; some containers have none.
IPV6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")

START_TIMEOUT_S = 60  # loading CUDA takes long


class Process:
    """A `turnout-server` process with these flags; a thread reads its log.

    Args:
        module: what is run instead of the server, such as a server with a fault.
    """

    def __init__(self, *flags: str, env: Mapping[str, str] | None = None, module: str = "turnout_server") -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *flags], stderr=subprocess.PIPE, text=True, env={**clean, **(env or {})}
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._grown = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """The log so far."""
        with self._grown:
            return "".join(self._lines)

    def wait_for(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> re.Match[str]:
        """Waits for `pattern` in the log and returns its first match."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(re.finditer(pattern, "".join(self._lines)))
            return bool(found) or self._ended

        with self._grown:
            self._grown.wait_for(look, timeout_s)
            assert found, f"no {pattern!r} in the server's log:\n{''.join(self._lines)}"
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this process only."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Waits until the process has ended and its log was read; returns the exit status."""
        status = self._process.wait(timeout_s)
        self._reader.join()
        return status

    def end(self) -> None:
        """Kills the process if it still runs."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._grown:
                    self._lines.append(line)
                    self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()


class RunningServer:
    """A server that has bound its ports, with clients for it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        ports = process.wait_for(r"gRPC on 127\.0\.0\.1:(\d+), metrics on 127\.0\.0\.1:(\d+)")
        self.address = f"127.0.0.1:{ports[1]}"
        self.monitoring = f"http://127.0.0.1:{ports[2]}"
        self.channel = grpc.insecure_channel(
            self.address, [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )
        self.stub = Stub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def wait_until_ready(self) -> None:
        """Waits until all models have been loaded or have failed to load."""
        watch = self.health.Watch(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S)
        next(change for change in watch if change.status == health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()


@contextmanager
def running(
    repository: Path,
    *flags: str,
    transport: str = "completion-queue",
    env: Mapping[str, str] | None = None,
    module: str = "turnout_server",
) -> Iterator[RunningServer]:
    """A ready server for `repository` on free ports; killed after the block."""
    ports = ["--grpc-port=0", "--metrics-port=0"]
    quick = ["--drain-delay-s=0", "--drain-timeout-s=5", "--profile-budget-s=0"]
    process = Process(
        f"--model-repository={repository}", *ports, *quick, *TRANSPORTS[transport], *flags, env=env, module=module
    )
    try:
        server = RunningServer(process)
        with server.channel:
            server.wait_until_ready()
            yield server
    finally:
        process.end()
