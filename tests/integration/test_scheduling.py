"""Tests of queued requests: deadlines, cancellation, batching, full queues, and other calls in the meantime."""

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from turnout_proto import inference_pb2 as pb

from tests.servers import RunningServer, running
from tests.wire import arrays, refused, request

#: The input of the zoo's model `slow` for a run of a second or two: much longer than it takes to send a few requests.
ITERATIONS = 1_500_000
ROW = {"x": np.ones((1, 2), np.float32)}


@contextmanager
def busy(server: RunningServer) -> Iterator[Any]:
    """Keeps the CPU device busy during the block; yields the call that does so, which must succeed at the end."""
    message = request("slow", {"n": np.array(ITERATIONS)}, parameters={"device": "cpu"})
    slow = server.stub.ModelInfer.future(message, timeout=30)
    wait_for_in_flight(server, 1, slow)
    yield slow
    assert arrays(slow.result())["y"] == ITERATIONS


def metric(server: RunningServer, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    with urllib.request.urlopen(f"{server.monitoring}/metrics", timeout=10) as response:
        text = response.read().decode()
    lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))


def wait_for_in_flight(server: RunningServer, count: int, slow: Any) -> None:
    """Waits until `count` requests wait or run, including `slow`."""
    while metric(server, "turnout_in_flight", device="cpu") < count:
        assert not slow.done(), "the slow request ended too early"


def runs_of(server: RunningServer, model: str) -> float:
    return metric(server, "turnout_batch_rows_count", model=model)


def one_run_since(server: RunningServer, model: str, before: float) -> bool:
    """Whether exactly one run was counted since `before`. The server counts a run just after it sends the answer."""
    while (runs := runs_of(server, model)) == before:
        pass
    return runs == before + 1


def test_90_a_request_that_expires_in_the_queue_never_runs(server: RunningServer) -> None:
    before = runs_of(server, "lazy")
    with busy(server), refused("DEADLINE_EXCEEDED", "Request timeout expired"):
        server.stub.ModelInfer(request("lazy", ROW, parameters={"timeout": 300_000}))
    assert runs_of(server, "lazy") == before


def test_90_a_grpc_deadline_works_like_a_timeout(server: RunningServer) -> None:
    before = runs_of(server, "lazy")
    with busy(server) as slow, refused("DEADLINE_EXCEEDED"):
        server.stub.ModelInfer(request("lazy", ROW), timeout=0.3)
    assert slow.done()
    server.stub.ModelInfer(request("lazy", ROW))
    assert one_run_since(server, "lazy", before)


def test_91_a_cancelled_request_leaves_its_batch_unharmed(server: RunningServer) -> None:
    before = runs_of(server, "lazy")
    with busy(server) as slow:
        calls = [server.stub.ModelInfer.future(request("lazy", {"x": np.full((1, 2), n, np.float32)})) for n in range(5)]
        wait_for_in_flight(server, 6, slow)
        calls[2].cancel()
    for number in (0, 1, 3, 4):
        np.testing.assert_array_equal(arrays(calls[number].result(timeout=10))["y"], [[number, number]])
    assert calls[2].code() is grpc.StatusCode.CANCELLED
    assert one_run_since(server, "lazy", before)


def test_waiting_requests_run_in_one_batch(server: RunningServer) -> None:
    with busy(server) as slow:
        calls = [server.stub.ModelInfer.future(request("lazy", ROW)) for _ in range(8)]
        wait_for_in_flight(server, 9, slow)
    assert {call.result(timeout=10).parameters["batch_size"].int64_param for call in calls} == {8}


def test_92_other_calls_are_answered_while_a_model_runs(server: RunningServer) -> None:
    with busy(server) as slow:
        for _ in range(20):
            assert server.stub.ServerLive(pb.ServerLiveRequest(), timeout=5).live
            assert server.stub.ModelReady(pb.ModelReadyRequest(name="slow"), timeout=5).ready
        assert not slow.done()


@pytest.fixture
def small_queue(zoo: Path, transport: str) -> Iterator[RunningServer]:
    with running(zoo, "--max-queue-size=1", transport=transport) as server:
        yield server


def test_88_a_full_queue_refuses_at_once_and_asks_clients_not_to_retry(small_queue: RunningServer) -> None:
    finished: SimpleQueue[Any] = SimpleQueue()
    with busy(small_queue) as slow:
        for _ in range(4):
            small_queue.stub.ModelInfer.future(request("lazy", ROW)).add_done_callback(finished.put)
        refusals = [
            finished.get(timeout=10) for _ in range(3)
        ]  # the fourth waits; or it was refused because the slow one still waited
        assert not slow.done()
    for call in refusals:
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Exceeds maximum queue size" in call.details()
        assert ("grpc-retry-pushback-ms", "-1") in call.trailing_metadata()


@pytest.fixture
def small_messages(zoo: Path, transport: str) -> Iterator[RunningServer]:
    with running(zoo, f"--max-message-bytes={2**20}", transport=transport) as server:
        yield server


def test_a_message_over_the_limit_is_refused(small_messages: RunningServer) -> None:
    with refused("RESOURCE_EXHAUSTED"):
        small_messages.stub.ModelInfer(request("fp32_plain", {"INPUT": np.zeros((1, 2**20), np.float32)}))
    small_messages.stub.ModelInfer(request("lazy", ROW))


def test_a_decompression_bomb_takes_no_memory(small_messages: RunningServer) -> None:
    process = psutil.Process(small_messages.process.pid)
    small_messages.stub.ModelInfer(request("lazy", ROW))
    before = process.memory_info().rss
    bomb = request("fp32_plain", {"INPUT": np.zeros((1, 2**24), np.float32)})
    with refused("RESOURCE_EXHAUSTED"):
        small_messages.stub.ModelInfer(bomb, compression=grpc.Compression.Gzip)
    assert process.memory_info().rss - before < 16 * 2**20
