"""Without what only Linux has, as on macOS and Windows: what can't be had is said, and the CPU serves."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from turnout_proto.methods import Stub

from tests import models, wire
from tests.servers import START_TIMEOUT_S

MACOS = ("os.sched_getaffinity", "os.sched_setaffinity", "os.memfd_create", "os.posix_fallocate")
WINDOWS = (*MACOS, "os.pread", "os.pwrite", "os.geteuid", "os.O_NOFOLLOW", "os.O_NONBLOCK", "socket.AF_UNIX", "signal.SIGKILL")
SYSTEMS = pytest.mark.parametrize("without", [MACOS, WINDOWS], ids=["macOS", "Windows"])

#: Runs a command line in a Python that lacks some functions, as those of other systems do.
LACKING = """
import functools, importlib, socket, sys
socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)  # Windows has one over TCP
for name in sys.argv.pop(1).split(","):
    module, _, function = name.rpartition(".")
    delattr(importlib.import_module(module), function)
sys.modules["resource"] = None
from turnout_server.__main__ import main
main(sys.argv[1:])
"""


def command(without: tuple[str, ...], *arguments: str) -> list[str]:
    return [sys.executable, "-c", LACKING, ",".join(without), *arguments]


def run(without: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(without, *arguments), capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def serving(without: tuple[str, ...], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], grpc.Channel]]:
    ports = ("--grpc-port=0", "--metrics-port=0", "--profile-budget-s=0", "--drain-delay-s=0")
    with subprocess.Popen(command(without, *arguments, *ports), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = next(match for line in process.stderr if (match := re.search(r"gRPC on (\S+),", line)))
            with grpc.insecure_channel(found[1]) as channel:
                changes = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S)
                next(change for change in changes if change.status == health_pb2.HealthCheckResponse.SERVING)
                yield process, channel
        finally:
            process.kill()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.save(tmp_path, "m", models.mlp())
    return tmp_path


@SYSTEMS
def test_the_cpu_serves_and_the_server_stops_when_it_is_told(repository: Path, without: tuple[str, ...]) -> None:
    with serving(without, f"--model-repository={repository}") as (process, channel):
        request = wire.request("m", {"x": np.ones((2, 8), np.float32)})
        assert wire.arrays(Stub(channel).ModelInfer(request))["y"].shape == (2, 4)
        process.terminate()
        assert process.wait(START_TIMEOUT_S) == 0


@SYSTEMS
@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--device", 'cpu:b={isolation = "process"}'], "can't give a device a process of its own"),
        (["--device", 'cpu={cpus = "0"}'], "can't keep threads to cores"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(
    repository: Path, without: tuple[str, ...], flags: list[str], text: str
) -> None:
    done = run(without, f"--model-repository={repository}", *flags)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_client_shared_memory_and_unix_sockets_are_refused_where_there_are_none(repository: Path) -> None:
    for flag, text in (("--allow-client-shm", "this system has no /dev/shm"), ("--host=unix:a", "no unix sockets")):
        done = run(WINDOWS, f"--model-repository={repository}", flag)
        assert done.returncode in (1, 2)
        assert text in done.stderr
        assert "Traceback" not in done.stderr


@SYSTEMS
@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"], ["explain", "m"], ["serve", "--help"]])
def test_the_other_commands_work(repository: Path, without: tuple[str, ...], arguments: list[str]) -> None:
    given = [f"--model-repository={repository}"] if "--help" not in arguments else []
    done = run(without, *arguments, *given)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
