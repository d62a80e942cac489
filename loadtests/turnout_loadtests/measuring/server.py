"""Starts a server for the time of a comparison, and finds the processes of one that runs already."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from turnout_loadtests.client import is_loopback
from turnout_loadtests.errors import LoadTestError

START_S = 60.0
#: More than a server takes to drain by default.
STOP_S = 40.0
LOG_LINES = 8


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens, and its process if it is one of this machine.

    Attributes:
        host: of gRPC, `HOST:PORT`.
        metrics: of its metrics page; empty if it isn't known.
        pid: None if it runs elsewhere, or its process can't be found.
        log: the file with its log, if it was started here.
    """

    host: str
    metrics: str = ""
    pid: int | None = None
    log: Path | None = None

    def processes(self) -> list[int]:
        """The ids of the server's process and of those that it started, such as a GPU's."""
        if self.pid is None:
            return []
        try:
            return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        except psutil.Error:
            return []

    def check(self) -> None:
        """Raises LoadTestError if the server was started here and has ended."""
        if self.log is not None and self.pid is not None and not _runs(self.pid):
            raise LoadTestError(f"the server has ended; the end of its log, {self.log}:\n{self.last_words()}")

    @property
    def is_local(self) -> bool:
        """Whether senders and server share this machine."""
        return self.pid is not None or is_loopback(self.host)

    def last_words(self) -> str:
        """The end of the server's log; empty if it isn't here."""
        return "\n".join(_text(self.log).splitlines()[-LOG_LINES:]) if self.log else ""


def attached(host: str, metrics: str) -> ServerAddress:
    """A server that runs already."""
    port = host.rpartition(":")[2]
    pid = _listener(int(port)) if is_loopback(host) and port.isdigit() else None
    return ServerAddress(host, metrics or metrics_beside(host), pid)


def metrics_beside(host: str) -> str:
    """The address of the metrics, which are on port 8002 where gRPC is on 8001; empty for other ports."""
    name, _, port = host.rpartition(":")
    return f"{name}:8002" if port == "8001" else ""


@contextmanager
def started(
    repository: Path, config: Path | None, log: Path, tick: Callable[[], None], cores: set[int] | None = None
) -> Iterator[ServerAddress]:
    """Runs a server on free ports, and stops it in the end. It may still be loading its models.

    Args:
        cores: those that the server may use; None for all.

    Raises:
        LoadTestError: it ended, with the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "turnout_server", "--model-repository", str(repository), "--grpc-port", "0"]
    command += ["--metrics-port", "0", *(("--config", str(config)) if config else ())]
    with log.open("wb") as lines:
        # In a session of its own, because Ctrl-C is for the comparison, which stops the server when it has written its report.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines, start_new_session=True)
    try:
        if cores:
            os.sched_setaffinity(process.pid, cores)
        host, metrics = _addresses(process, log, tick)
        yield ServerAddress(host, metrics, process.pid, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _addresses(process: "subprocess.Popen[bytes]", log: Path, tick: Callable[[], None]) -> tuple[str, str]:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        if found := re.search(r"gRPC on (\S+:\d+), metrics on (\S+:\d+)", _text(log)):
            return found[1], found[2]
        tick()
        time.sleep(0.1)
    words = "\n".join(_text(log).splitlines()[-LOG_LINES:])
    state = "didn't say where it listens" if process.poll() is None else f"ended with exit status {process.returncode}"
    raise LoadTestError(f"the server {state}; the end of its log, {log}:\n{words}")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _listener(port: int) -> int | None:
    """The process that listens on a port of this machine; None if it belongs to another user."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    listening = [found for found in connections if found.status == psutil.CONN_LISTEN]
    pids = [found.pid for found in listening if found.laddr and found.laddr.port == port]
    return next((pid for pid in pids if pid), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
