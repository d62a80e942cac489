"""What operators and their machines do to a running server: scrapes, probes under load, and what it does by itself."""

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2
from turnout_proto import inference_pb2 as pb

from tests import models
from tests.servers import RunningServer, running
from tests.wire import arrays, request

X = np.zeros((1, 2), np.float32)


#: How many more MiB a server may hold after loading a small model 30 times, when it has done so as often before.
RELOADED_MIB = 8
#: How many more MiB a server may hold after some thousand requests, when it has answered as many before.
ANSWERED_MIB = 5
#: Notes every fork of a process that is started with it.
NOTES_FORKS = """
import os, sys

def note(event, arguments):
    if event in ("os.fork", "os.forkpty"):
        with open(os.environ["FORKS"], "a") as file:
            file.write(f"{os.getpid()} {sys.argv}\\n")

sys.addaudithook(note)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.save(tmp_path, "adds", models.add_constant(1))
    models.save(tmp_path, "large", models.mlp((8, 2048, 2048, 4)))
    return tmp_path


def infer(server: RunningServer) -> None:
    assert arrays(server.stub.ModelInfer(request("adds", {"x": X}), timeout=10))["y"].tolist() == [[1, 1]]


def test_72_99_probes_and_requests_are_answered_during_a_storm_of_loads(repository: Path, transport: str) -> None:
    with running(repository, "--model-control-mode=explicit", "--load-model=*", transport=transport) as server:
        started, failures = threading.Barrier(4), []

        def reload() -> None:
            started.wait()
            for _ in range(15):
                try:
                    server.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="large"), timeout=30)
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=reload) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait()
        probes = 0
        while any(thread.is_alive() for thread in threads):
            probe = health_pb2.HealthCheckRequest()
            assert server.health.Check(probe, timeout=2).status == health_pb2.HealthCheckResponse.SERVING
            with urllib.request.urlopen(f"{server.monitoring}/readyz", timeout=2) as page:
                assert page.status == 200
            infer(server)
            probes += 1
        assert failures == []
        assert probes > 5
        ready = server.stub.ModelReady(pb.ModelReadyRequest(name="large")).ready
        assert (ready, psutil.Process(server.process.pid).num_threads() < 60) == (True, True)


def test_119_scrapers_that_storm_or_never_read_hold_up_no_request(repository: Path, transport: str) -> None:
    with running(repository, transport=transport) as server, ExitStack() as stack:
        host, port = server.monitoring.removeprefix("http://").split(":")
        for _ in range(20):
            slow = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        stopping = threading.Event()

        def storm() -> None:
            while not stopping.is_set():
                with urllib.request.urlopen(f"{server.monitoring}/metrics", timeout=10) as page:
                    assert b"turnout_" in page.read()

        threads = [threading.Thread(target=storm) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(100):
                infer(server)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()


def test_120_nothing_is_sent_to_anybody_who_did_not_ask(repository: Path, transport: str) -> None:
    with running(repository, transport=transport) as server:
        infer(server)
        process = psutil.Process(server.process.pid)
        for each in (process, *process.children(recursive=True)):
            remote = {connection.raddr.ip for connection in each.net_connections("inet") if connection.raddr}
            assert {address.removeprefix("::ffff:") for address in remote} <= {"127.0.0.1", "::1"}


def test_104_the_server_and_its_processes_never_fork(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A forked child would have locks of threads, of ONNX Runtime and of gRPC, that nobody in it will ever release."""
    noting = tmp_path_factory.mktemp("noting")
    (noting / "sitecustomize.py").write_text(NOTES_FORKS)
    (noting / "turnout.toml").write_text('[devices.cpu]\n[devices."cpu:own"]\nisolation = "process"\n')
    forks = noting / "forks"
    path = os.pathsep.join(filter(None, [str(noting), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "FORKS": str(forks)}
    models.save(repository, "endless", models.countdown())  # run in a process of its own for its Loop
    with running(repository, f"--config={noting / 'turnout.toml'}", env=environment) as server:
        for device in ("cpu", "cpu:own"):
            answer = server.stub.ModelInfer(request("adds", {"x": X}, parameters={"device": device}), timeout=30)
            assert arrays(answer)["y"].tolist() == [[1, 1]]
        server.stub.ModelInfer(request("endless", {"n": np.array(3)}), timeout=30)
        assert len(psutil.Process(server.process.pid).children()) >= 2
    assert not forks.exists(), forks.read_text()
    subprocess.run([sys.executable, "-c", "import os; os.fork() or os._exit(0)"], env=environment, check=True)
    assert forks.exists()


@pytest.mark.parametrize("name", ["adds", "counts"])
def test_109_a_model_that_is_loaded_again_and_again_takes_no_memory(repository: Path, transport: str, name: str) -> None:
    """In process, and in a process of its own, which once kept each replaced model with its threads for a thousand layouts."""
    models.save(repository, "counts", models.countdown())
    with running(repository, "--model-control-mode=explicit", "--load-model=*", transport=transport) as server:
        process = psutil.Process(server.process.pid)

        def held_after(loads: int) -> tuple[float, int, int]:
            for _ in range(loads):
                server.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=30)
            infer(server)
            every = [process, *process.children(recursive=True)]
            rss_mib = sum(each.memory_info().rss for each in every) / 2**20
            return rss_mib, sum(each.num_fds() for each in every), sum(each.num_threads() for each in every)

        before, after = held_after(30), held_after(30)
        assert after[0] < before[0] + RELOADED_MIB
        assert (after[1] <= before[1] + 4, after[2] <= before[2] + 4) == (True, True), (before, after)


def test_108_requests_that_were_answered_take_no_memory(repository: Path, transport: str) -> None:
    """Each of them differs from all before, so that whatever was kept for each would show. A million is benchmarks.soak's."""
    with running(repository, transport=transport) as server:
        process = psutil.Process(server.process.pid)

        def held_after(first: int) -> tuple[float, int, int]:
            for number in range(first, first + 5):
                infers = (
                    request("adds", {"x": np.full((1 + each % 30, 2), number, np.float32)}, id=f"{number}/{each}" * 20)
                    for each in range(400)
                )
                assert sum(not answer.error_message for answer in server.stub.ModelStreamInfer(infers, timeout=60)) == 400
            return process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()

        before, after = held_after(0), held_after(5)
        assert after[0] < before[0] + ANSWERED_MIB
        assert (after[1] <= before[1] + 4, after[2] <= before[2] + 4) == (True, True), (before, after)
