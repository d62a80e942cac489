"""What operators and their machines do to a running server: scrapes, probes under load, and what it does by itself."""

import socket
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
