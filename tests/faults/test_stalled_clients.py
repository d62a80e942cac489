"""Clients that hold on to the server (rows 20 and 21 of the fault table), beside one that doesn't notice them."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS

from tests import models
from tests.faulty import until
from tests.http2 import Connection
from tests.servers import RunningServer, running
from tests.wire import arrays, refused, request

INFER = METHODS["ModelInfer"].path
MIB = 2**20
X = {"x": np.zeros((1, 1), np.float32)}
#: An answer of 4 MB to a request of some 100 bytes.
LARGE = {"shape": np.array([1024, 1024], np.int64)}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.save(tmp_path, "adds", models.add_constant(1))
    models.save(tmp_path, "fill", models.fill())
    models.save(tmp_path, "copy", models.identity("FP32", (1, "n")))
    models.save(tmp_path, "slow", models.countdown())
    return tmp_path


#: How each transport ends what stalls: the completion queue the call, grpc.aio its connection.
LIMITS = {
    "completion-queue": ["--stall-timeout-s=1", "--max-connection-age-s=0"],
    "aio": ["--max-connection-age-s=1", "--max-connection-grace-s=1"],
}


@pytest.fixture
def server(repository: Path, transport: str) -> Iterator[RunningServer]:
    with running(repository, *LIMITS[transport], transport=transport) as server:
        yield server


class Bystander:
    """A client that sends one request after another; none may fail."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.failures: list[str] = []

    def summary(self) -> str:
        ordered = sorted(self.latencies_ms)
        return (
            f"{len(ordered)} answers, p50 {statistics.median(ordered):.1f} ms, p99 {ordered[int(len(ordered) * 0.99)]:.1f} ms"
        )


@contextmanager
def bystander(server: RunningServer) -> Iterator[Bystander]:
    seen, stopping = Bystander(), threading.Event()

    def run() -> None:
        while not stopping.wait(0.005):
            started_s = time.monotonic()
            try:
                server.stub.ModelInfer(request("adds", X), timeout=10)
            except grpc.RpcError as error:
                seen.failures.append(str(error))
            seen.latencies_ms.append((time.monotonic() - started_s) * 1e3)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        thread.join()


def test_20_requests_that_do_not_arrive_are_ended(server: RunningServer, transport: str) -> None:
    half = request("copy", {"INPUT": np.zeros((1, MIB), np.float32)}).SerializeToString()
    with ExitStack() as stack, bystander(server) as innocent:
        stalled = []
        for _ in range(200):
            connection = Connection(server.address)
            stack.callback(connection.close)
            stalled.append((connection, connection.call(INFER, half[:4096], announced=len(half))))
        ended = [connection.wait_for_end(stream, timeout_s=10) for connection, stream in stalled]
    assert all(ended), f"{ended.count(False)} of 200 are still open"
    assert innocent.failures == []
    print(f"row 20, {transport}: bystander {innocent.summary()}")


def test_21_answers_that_nobody_takes_are_freed(server: RunningServer, transport: str) -> None:
    """The allocator keeps some of what is freed, for later answers; held, each wave would add as much as the first one."""
    process = psutil.Process(server.process.pid)
    message = request("fill", LARGE).SerializeToString()
    assert arrays(server.stub.ModelInfer(request("fill", LARGE)))["y"].size == MIB
    before = process.memory_info().rss
    peaks_mib = []
    with bystander(server) as innocent:
        for _ in range(5):
            with ExitStack() as stack:
                calls = []
                for _ in range(50):
                    connection = Connection(server.address, window=0)
                    stack.callback(connection.close)
                    calls.append((connection, connection.call(INFER, message)))
                assert all(connection.wait_for_end(stream, timeout_s=10) for connection, stream in calls)
            peaks_mib.append((process.memory_info().rss - before) / MIB)
    print(f"row 21, {transport}: +{[round(peak) for peak in peaks_mib]} MiB after each wave; bystander {innocent.summary()}")
    assert peaks_mib[-1] < len(peaks_mib) * peaks_mib[0] / 2
    assert innocent.failures == []


def test_21_a_stream_whose_answers_nobody_takes_is_ended(server: RunningServer) -> None:
    message = request("fill", LARGE).SerializeToString()
    connection = Connection(server.address, window=0)
    stream = connection.call(METHODS["ModelStreamInfer"].path, message)
    assert connection.wait_for_end(stream, timeout_s=10)
    connection.close()


def test_a_run_that_takes_longer_than_the_stall_timeout_is_not_ended(repository: Path) -> None:
    with running(repository, "--stall-timeout-s=0.5") as server:
        started_s = time.monotonic()
        answer = server.stub.ModelInfer(request("slow", {"n": np.array(2_000_000)}), timeout=60)
        assert arrays(answer)["y"] == 2_000_000
        assert time.monotonic() - started_s > 1.0


def test_a_client_that_holds_its_share_is_refused_until_it_lets_go(repository: Path, transport: str) -> None:
    with running(repository, "--max-in-flight-mb=16", "--stall-timeout-s=0", transport=transport) as server:
        connections = []
        for _ in range(4):  # 16 MB of answers, and its share is 8
            connection = Connection(server.address, window=0)
            connection.call(INFER, request("fill", LARGE).SerializeToString())
            connections.append(connection)

        def is_refused() -> bool:
            try:
                server.stub.ModelInfer(request("adds", X))
            except grpc.RpcError:
                return True
            return False

        until(is_refused)
        with refused("RESOURCE_EXHAUSTED", "this client holds", "each client may hold 8"):
            server.stub.ModelInfer(request("adds", X))
        for connection in connections:
            connection.close()
        until(lambda: not is_refused())
        for _ in range(20):  # what a client is done with doesn't count
            large = np.ones((1, MIB), np.float32)
            assert arrays(server.stub.ModelInfer(request("copy", {"INPUT": large})))["OUTPUT"].size == MIB
            (answer,) = server.stub.ModelStreamInfer(iter([request("copy", {"INPUT": large})]))
            assert not answer.error_message


def test_19_more_calls_than_a_connection_may_have_wait_and_all_succeed(repository: Path, transport: str) -> None:
    with running(repository, "--max-streams=4", transport=transport) as server:
        server.stub.ServerLive(pb.ServerLiveRequest())  # the watch for readiness has left the connection
        calls = [server.stub.ModelInfer.future(request("adds", X), timeout=20) for _ in range(50)]
        assert [arrays(call.result())["y"].item() for call in calls] == [1] * 50


def test_connections_grow_old_without_a_failed_call(repository: Path, transport: str) -> None:
    flags = ["--max-connection-age-s=0.5", "--max-connection-grace-s=5"]
    with running(repository, *flags, transport=transport) as server, bystander(server) as innocent:
        time.sleep(3)
    assert innocent.failures == []
    assert len(innocent.latencies_ms) > 50


def test_a_connection_without_calls_is_closed(repository: Path, transport: str) -> None:
    with running(repository, "--max-connection-idle-s=0.5", transport=transport) as server:
        connection = Connection(server.address)
        assert connection.wait_for_end(0, timeout_s=10)
        connection.close()
