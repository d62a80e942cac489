"""Clients that break the rules of HTTP/2, keep connections busy, or send and ask for too much: the others are answered."""

import resource
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from benchmarks.bystander import http2
from benchmarks.bystander.http2 import Connection, frame
from tests import models
from tests.faulty import until
from tests.links import Link
from tests.servers import RunningServer, running
from tests.wire import arrays, refused, request

ROW = np.arange(16, dtype=np.float32)[None]
ADD_SUB = request("add_sub", {"INPUT0": ROW, "INPUT1": ROW})
MIB = 1 << 20
LIMIT_BYTES = 4 * MIB
#: How long a connection may live, and how long its calls may go on after that.
AGE_S = 1


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("connections")
    models.save(root, "add_sub", models.add_sub(), configuration="max_batch_size: 8")
    models.save(root, "echo", models.identity("FP32", ("m", "n")), configuration="max_batch_size: 0")
    models.save(root, "slow", models.countdown())
    models.save(root, "fill", models.fill())
    return root


@pytest.fixture(scope="module", params=["completion-queue", "aio"])
def small(repository: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server that takes messages of 4 MiB."""
    with running(repository, f"--max-message-bytes={LIMIT_BYTES}", transport=request.param) as server:
        yield server


@pytest.fixture(scope="module", params=["completion-queue", "aio"])
def aging(repository: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server that ends connections after a second."""
    ages = f'{{"grpc.max_connection_age_ms": {AGE_S}000, "grpc.max_connection_age_grace_ms": {AGE_S}000}}'
    with running(repository, f"--grpc-options={ages}", transport=request.param) as server:
        yield server


@pytest.fixture(scope="module", params=["completion-queue", "aio"])
def plain(repository: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server with the default settings."""
    with running(repository, transport=request.param) as server:
        yield server


def process_of(server: RunningServer) -> psutil.Process:
    return psutil.Process(server.process.pid)


def memory_of(server: RunningServer) -> int:
    resident: int = process_of(server).memory_info().rss
    return resident


def answers(server: RunningServer) -> None:
    """Asserts that a client with a connection of its own is answered."""
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        np.testing.assert_array_equal(arrays(Stub(channel).ModelInfer(ADD_SUB, timeout=10))["OUTPUT0"], ROW + ROW)


def echo(rows: int) -> pb.ModelInferRequest:
    """A request whose message and answer have about `rows` MiB."""
    return request("echo", {"INPUT": np.zeros((rows, MIB // 4), np.float32)})


def test_9_a_message_beyond_the_limit_is_refused(small: RunningServer) -> None:
    assert small.stub.ModelInfer(echo(3)).model_name == "echo"
    with refused("RESOURCE_EXHAUSTED"):
        small.stub.ModelInfer(echo(5))
    answers(small)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_10_the_limit_is_for_what_a_message_has_once_it_is_inflated(small: RunningServer, algorithm: grpc.Compression) -> None:
    before = memory_of(small)
    with grpc.insecure_channel(small.address, compression=algorithm) as channel, refused("RESOURCE_EXHAUSTED"):
        channel.unary_unary(http2.INFER, bytes, bytes)(bytes(64 * MIB), timeout=60)
    assert memory_of(small) - before < 16 * MIB
    answers(small)


def test_11_an_unknown_compression_is_refused_by_grpc(plain: RunningServer) -> None:
    """The specification says UNIMPLEMENTED. gRPC says INTERNAL, because it fails to read the header; no call is seen."""
    with Connection(plain.address) as connection:
        stream = connection.open(http2.INFER, grpc_encoding="snappy")
        message = b"\1" + http2.grpc_message(b"x" * 10)[1:]
        connection.send(frame(http2.DATA, http2.END_STREAM, stream, message))
        trailers = connection.trailers(stream)
    assert b"grpc-status\x0213" in trailers
    assert b"grpc-encoding" in trailers
    answers(plain)


def test_17_a_flood_of_pings_ends_its_connection_only(plain: RunningServer) -> None:
    with Connection(plain.address) as connection:
        for _ in range(5):
            connection.send(frame(http2.PING, 0, 0, bytes(8)))
        kinds: dict[int, bytes] = {}
        with suppress(ConnectionError):
            while http2.GOAWAY not in kinds:
                kind, _, _, payload = connection.next()
                kinds[kind] = payload
        assert b"too_many_pings" in kinds[http2.GOAWAY]
    answers(plain)


def resets(connection: Connection, count: int) -> None:
    """Opens streams and resets them at once (CVE-2023-44487)."""
    with suppress(OSError):
        for _ in range(count):
            stream = connection.open(http2.INFER)
            connection.send(frame(http2.RST_STREAM, 0, stream, struct.pack(">I", http2.CANCEL)))


def test_17_pings_whose_answers_are_never_read_do_not_stop_the_server(repository: Path) -> None:
    """gRPC often keeps its polling thread with that one connection. `aio` has no other thread that could take its place."""
    with running(repository) as server, ExitStack() as stack:
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                with Connection(server.address) as connection, suppress(OSError):
                    while not stop.is_set():
                        connection.send(frame(http2.PING, 0, 0, bytes(8)) * 10)

        flooding = threading.Thread(target=flood)
        flooding.start()
        stack.callback(flooding.join)
        stack.callback(stop.set)
        ends_s, answered = time.monotonic() + 3, 0
        while time.monotonic() < ends_s:
            server.stub.ModelInfer(ADD_SUB, timeout=5)
            answered += 1
        assert answered > 50


def test_18_streams_that_are_opened_and_reset_starve_nobody(plain: RunningServer) -> None:
    with Connection(plain.address) as connection:
        attack = threading.Thread(target=resets, args=(connection, 10_000))
        attack.start()
        times_s: list[float] = []
        while attack.is_alive() or len(times_s) < 20:
            started_s = time.monotonic()
            assert plain.stub.ServerLive(pb.ServerLiveRequest(), timeout=10).live
            times_s.append(time.monotonic() - started_s)
        attack.join()
    assert np.median(times_s) < 0.1
    answers(plain)


def test_19_more_calls_than_streams_are_allowed_all_succeed(plain: RunningServer) -> None:
    for _ in range(3):
        calls = [plain.stub.ModelInfer.future(ADD_SUB, timeout=30) for _ in range(300)]
        for call in calls:
            np.testing.assert_array_equal(arrays(call.result())["OUTPUT0"], ROW + ROW)


def test_a_call_that_ends_without_a_message_is_answered(plain: RunningServer) -> None:
    with Connection(plain.address) as connection:
        stream = connection.open(http2.INFER, http2.END_HEADERS | http2.END_STREAM)
        assert b"grpc-status\x0212" in connection.trailers(stream)


def read_to_the_end(connection: Connection) -> None:
    """Reads until the server closes the connection."""
    with suppress(ConnectionError):
        while True:
            connection.next()


def test_20_requests_that_stop_half_way_end_with_their_connections(aging: RunningServer) -> None:
    before = memory_of(aging)
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(aging.address)) for _ in range(200)]
        for connection in connections:
            stream = connection.open(http2.INFER)
            connection.send(frame(http2.DATA, 0, stream, struct.pack(">BI", 0, 3 * MIB) + bytes(1000)))
        answers(aging)
        assert memory_of(aging) - before < 32 * MIB
        for connection in connections:  # closed by the server, long before `next` gives up
            read_to_the_end(connection)
    answers(aging)


def test_21_answers_that_nobody_reads_are_freed_with_their_connections(aging: RunningServer) -> None:
    """The allocator doesn't always give back what was freed; so four rounds must not take more than one."""
    before = memory_of(aging)
    held = [unread_answers(aging, 50) for _ in range(4)]
    assert max(held) - before < 50 * 2 * 3 * MIB + 100 * MIB
    answers(aging)


def unread_answers(server: RunningServer, count: int) -> int:
    """Lets as many clients ask for 3 MiB and read nothing; returns the server's memory once it has closed their connections."""
    message = http2.grpc_message(request("fill", {"shape": np.array([1024, 768])}).SerializeToString())
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.address, window=0)) for _ in range(count)]
        for connection in connections:
            connection.send(frame(http2.DATA, http2.END_STREAM, connection.open(http2.INFER), message))
        answers(server)
        for connection in connections:
            read_to_the_end(connection)
    return memory_of(server)


def test_22_more_connections_than_descriptors_harm_no_connection_that_is_there(repository: Path, transport: str) -> None:
    with running(repository, transport=transport) as server, ExitStack() as stack:
        process = process_of(server)
        urllib.request.urlopen(f"{server.monitoring}/readyz", timeout=10).close()
        limit = process.num_fds() + 40
        process.rlimit(resource.RLIMIT_NOFILE, (limit, limit))
        host, port = server.address.split(":")
        flood = [stack.enter_context(socket.create_connection((host, int(port)), timeout=10)) for _ in range(400)]
        for _ in range(20):
            assert server.stub.ModelInfer(ADD_SUB, timeout=10).model_name == "add_sub"
            with urllib.request.urlopen(f"{server.monitoring}/readyz", timeout=10) as answer:
                assert answer.status == 200
        for connection in flood:
            connection.close()
        until(lambda: reaches(server), timeout_s=30)


def reaches(server: RunningServer) -> bool:
    """Whether a new connection is answered."""
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return bool(Stub(channel).ServerLive(pb.ServerLiveRequest(), timeout=2).live)
        except grpc.RpcError:
            return False


def test_23_an_answer_beyond_the_clients_limit_fails_only_there(plain: RunningServer) -> None:
    with grpc.insecure_channel(plain.address, [("grpc.max_receive_message_length", MIB)]) as channel:
        with refused("RESOURCE_EXHAUSTED"):
            Stub(channel).ModelInfer(echo(2))
        assert Stub(channel).ModelInfer(ADD_SUB).model_name == "add_sub"


def test_48_an_answer_that_takes_all_memory_is_refused(plain: RunningServer) -> None:
    for shape in ([2**20, 2**20], [2**40, 1]):
        with refused("RESOURCE_EXHAUSTED", "does not fit"):
            plain.stub.ModelInfer(request("fill", {"shape": np.array(shape)}), timeout=30)
    answers(plain)


def test_49_an_answer_beyond_the_limit_is_refused_and_not_built(small: RunningServer) -> None:
    with refused("RESOURCE_EXHAUSTED", "the response of model 'fill' has", "--max-message-bytes"):
        small.stub.ModelInfer(request("fill", {"shape": np.array([5, MIB // 4])}))
    answers(small)


def test_107_a_client_whose_network_swallows_everything_is_forgotten(repository: Path, transport: str) -> None:
    """Its stream is open, so that no limit of idle connections ends it: only pings tell that nobody is there any more."""
    pings = '{"grpc.keepalive_time_ms": 500, "grpc.http2.ping_timeout_ms": 500}'
    with running(repository, f"--grpc-options={pings}", transport=transport) as server, ExitStack() as stack:
        link = Link(server.address)
        stack.callback(link.close)
        stub = Stub(stack.enter_context(grpc.insecure_channel(link.address)))
        hanging_up = threading.Event()
        stack.callback(hanging_up.set)

        def one_then_silence() -> Iterator[pb.ModelInferRequest]:
            yield ADD_SUB
            hanging_up.wait()

        answers = stub.ModelStreamInfer(one_then_silence(), timeout=60)
        assert not next(answers).error_message
        link.cut()
        with refused("DEADLINE_EXCEEDED"):
            stub.ModelInfer(ADD_SUB, timeout=0.5)
        process = process_of(server)

        def forgotten() -> bool:
            server.stub.ModelInfer(ADD_SUB, timeout=5)
            peers = {each.raddr.port for each in process.net_connections("tcp") if each.raddr}
            return not peers & link.ports

        until(forgotten)


def test_107_a_slow_link_slows_down_its_own_client_only(plain: RunningServer) -> None:
    link = Link(plain.address, bytes_per_s=200_000)
    rows = np.ones((64, 256), np.float32)
    with grpc.insecure_channel(link.address) as channel:
        slow = Stub(channel).ModelInfer.future(request("echo", {"INPUT": rows}), timeout=30)
        until(lambda: bool(link.ports))
        answered = 0
        while not slow.done():
            plain.stub.ModelInfer(ADD_SUB, timeout=5)
            answered += 1
        assert arrays(slow.result())["OUTPUT"].tolist() == rows.tolist()
    link.close()
    assert answered > 20
