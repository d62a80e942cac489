"""Tests of what every transport guarantees to its handlers. Most run on all transports."""

import gc
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from turnout_server.transport.aio import AioTransport
from turnout_server.transport.base import OK, STREAM_WINDOW, Call, Handlers, Status
from turnout_server.transport.completion_queue import CompletionQueueTransport
from turnout_server.transport.selection import Make

TIMEOUT_S = 10.0
OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 8 << 20)]


class Waiter:
    """A handler that records its calls, each with an event that is set when the call is cancelled."""

    def __init__(self) -> None:
        self.calls: list[tuple[Call, threading.Event]] = []
        self._grown = threading.Condition()

    def __call__(self, call: Call, message: bytes) -> None:
        cancelled = threading.Event()
        call.on_cancel(cancelled.set)
        with self._grown:
            self.calls.append((call, cancelled))
            self._grown.notify_all()

    def wait(self, count: int = 1) -> tuple[Call, threading.Event]:
        """Waits for `count` calls and returns the last one."""
        with self._grown:
            assert self._grown.wait_for(lambda: len(self.calls) >= count, TIMEOUT_S)
            return self.calls[-1]


class FunctionReceiver:
    """A receiver that passes each message to a function."""

    def __init__(self, call: Call, on_message: Callable[[Call, bytes], None]) -> None:
        self._call = call
        self._on_message = on_message

    def message(self, data: bytes) -> None:
        self._on_message(self._call, data)

    def half_closed(self) -> None:
        self._call.finish()


def echo(call: Call, message: bytes) -> None:
    call.send(message)
    call.finish()


def describe(call: Call, message: bytes) -> None:
    deadline_s = call.deadline_s
    left_s = "none" if deadline_s is None else f"{deadline_s - time.monotonic():.1f}"
    call.send(f"{call.metadata.get('device')} {left_s}".encode())
    call.finish()


def refuse(call: Call, message: bytes) -> None:
    call.finish(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "voll: \u00fc", (("grpc-retry-pushback-ms", "-1"),)))


def fail(call: Call, message: bytes) -> None:
    raise ZeroDivisionError("/a/secret/path")


def exit_process(call: Call, message: bytes) -> None:
    raise SystemExit(3)


def answer_twice(call: Call, message: bytes) -> None:
    for text in (b"first", b"second"):
        call.send(text)
        call.finish()


def answer_from_a_thread(call: Call, message: bytes) -> None:
    threading.Timer(0.01, echo, (call, message)).start()


@pytest.fixture(params=[CompletionQueueTransport, AioTransport])
def make(request: pytest.FixtureRequest) -> Make:
    transport: Make = request.param
    return transport


@contextmanager
def serving(
    make: Make, handlers: Handlers, credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> Iterator[tuple[Any, Any]]:
    """A transport that serves these handlers, and a channel to it."""
    transport = make(f"127.0.0.1:{port}", handlers, OPTIONS, credentials)
    transport.start()
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with ExitStack() as stack:
        stack.callback(transport.stop, 0)
        channel: Any = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{transport.port}", options))
        yield transport, channel


def unary(**handlers: Callable[[Call, bytes], None]) -> Handlers:
    return Handlers({f"/t/{name}": handler for name, handler in handlers.items()}, {})


def stream(on_message: Callable[[Call, bytes], None]) -> Handlers:
    return Handlers({"/t/echo": echo}, {"/t/stream": lambda call: FunctionReceiver(call, on_message)})


def ask(channel: Any, method: str, message: bytes = b"x", timeout: float = TIMEOUT_S, **options: Any) -> bytes:
    answer: bytes = channel.unary_unary(f"/t/{method}")(message, timeout=timeout, **options)
    return answer


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, str]:
    """The code and details with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        function(*arguments, **options)
    error: Any = caught.value
    return error.code().name, error.details()


class Inline:
    """Inline work defined by a function."""

    def __init__(self, run: Callable[[], bool]) -> None:
        self.run = run


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
@pytest.mark.parametrize("handler", [echo, answer_from_a_thread])
def test_a_message_is_echoed(make: Make, size: int, handler: Callable[[Call, bytes], None]) -> None:
    with serving(make, unary(echo=handler)) as (_, channel):
        message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert ask(channel, "echo", message) == message


def test_metadata_and_deadline_reach_the_handler(make: Make) -> None:
    with serving(make, unary(describe=describe)) as (_, channel):
        metadata = (("device", "cuda:1"), ("trace-bin", b"\x00\xff"))
        assert ask(channel, "describe", timeout=5, metadata=metadata) in (b"cuda:1 5.0", b"cuda:1 4.9")
        assert channel.unary_unary("/t/describe")(b"") == b"None none"


def test_code_details_and_trailing_metadata_reach_the_client(make: Make) -> None:
    with serving(make, unary(refuse=refuse)) as (_, channel):
        with pytest.raises(grpc.RpcError) as caught:
            ask(channel, "refuse")
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "voll: \u00fc")
        assert ("grpc-retry-pushback-ms", "-1") in [tuple(pair) for pair in error.trailing_metadata()]


def test_only_the_first_answer_is_sent(make: Make) -> None:
    with serving(make, unary(twice=answer_twice)) as (_, channel):
        assert [ask(channel, "twice") for _ in range(3)] == [b"first"] * 3


@pytest.mark.parametrize("failing", [fail, exit_process])
def test_a_handler_that_raises_fails_only_its_call_with_internal(make: Make, failing: Callable[[Call, bytes], None]) -> None:
    waiter = Waiter()
    with serving(make, unary(fail=failing, wait=waiter, echo=echo)) as (_, channel):
        other = channel.unary_unary("/t/wait").future(b"", timeout=TIMEOUT_S)
        waiting, _ = waiter.wait()
        code, details = error_of(ask, channel, "fail")
        assert code == "INTERNAL"
        assert "secret" not in details
        echo(waiting, b"unharmed")
        assert other.result() == b"unharmed"
        assert ask(channel, "echo") == b"x"


@pytest.mark.parametrize("failing", [fail, exit_process])
def test_a_receiver_that_raises_fails_only_its_stream_with_internal(make: Make, failing: Callable[[Call, bytes], None]) -> None:
    with serving(make, stream(failing)) as (_, channel):
        answers = channel.stream_stream("/t/stream")(iter([b"a", b"b"]), timeout=TIMEOUT_S)
        assert error_of(list, answers)[0] == "INTERNAL"
        assert ask(channel, "echo") == b"x"


def test_an_unknown_method_is_unimplemented(make: Make) -> None:
    with serving(make, unary(echo=echo)) as (_, channel):
        assert error_of(ask, channel, "nothing") == ("UNIMPLEMENTED", "Method not found!")


def test_a_unary_call_without_a_message_is_answered(make: Make) -> None:
    with serving(make, unary(echo=echo)) as (_, channel):
        without = channel.stream_unary("/t/echo")
        code, details = error_of(without, iter([]), timeout=TIMEOUT_S)
        assert (code, details) == ("UNIMPLEMENTED", "a unary call requires exactly one request message")
        assert ask(channel, "echo") == b"x"


def test_a_message_over_the_limit_is_resource_exhausted(make: Make) -> None:
    with serving(make, unary(echo=echo)) as (_, channel):
        assert error_of(ask, channel, "echo", bytes(9 << 20))[0] == "RESOURCE_EXHAUSTED"
        assert ask(channel, "echo") == b"x"


def test_compressed_messages_are_decompressed(make: Make) -> None:
    with serving(make, unary(echo=echo)) as (_, channel):
        assert ask(channel, "echo", bytes(100_000), compression=grpc.Compression.Gzip) == bytes(100_000)


def test_answers_in_a_stream_keep_their_order(make: Make) -> None:
    with serving(make, stream(lambda call, message: call.send(message))) as (_, channel):
        messages = [str(number).encode() for number in range(10 * STREAM_WINDOW)]
        assert list(channel.stream_stream("/t/stream")(iter(messages), timeout=TIMEOUT_S)) == messages


def test_a_message_may_have_many_answers_and_a_stream_may_end_with_an_error(make: Make) -> None:
    def burst(call: Call, message: bytes) -> None:
        for number in range(5 * STREAM_WINDOW):
            call.send(str(number).encode())
        call.finish(Status(grpc.StatusCode.ABORTED, "enough"))
        call.send(b"too late")

    with serving(make, stream(burst)) as (_, channel):
        answers = channel.stream_stream("/t/stream")(iter([b"", b""]), timeout=TIMEOUT_S)
        assert [next(answers) for _ in range(5 * STREAM_WINDOW)] == [str(n).encode() for n in range(5 * STREAM_WINDOW)]
        assert error_of(next, answers) == ("ABORTED", "enough")


def test_a_stream_without_messages_ends(make: Make) -> None:
    with serving(make, stream(echo)) as (_, channel):
        assert list(channel.stream_stream("/t/stream")(iter([]), timeout=TIMEOUT_S)) == []


def test_a_slow_client_stops_the_server_from_reading(make: Make) -> None:
    """Ten thousand answers of 64 KiB would take 640 MB; the window and the sockets only hold a few of them."""
    read = 0

    def amplify(call: Call, message: bytes) -> None:
        nonlocal read
        read += 1
        call.send(bytes(65536))

    with serving(make, stream(amplify)) as (_, channel):
        before = psutil.Process().memory_info().rss
        answers = channel.stream_stream("/t/stream")((b"" for _ in range(10_000)), timeout=60)
        for _ in range(3):
            next(answers)  # the client reads no further answers
        seen = -1
        for _ in range(100):  # until the server stops reading
            if seen == read:
                break
            seen = read
            time.sleep(0.2)
        assert read < 10 * STREAM_WINDOW
        assert psutil.Process().memory_info().rss - before < 100 << 20
        assert ask(channel, "echo") == b"x"
        answers.cancel()


@pytest.mark.parametrize("ending", ["cancel", "deadline", "disconnect"])
def test_a_client_that_cancels_expires_or_disconnects_cancels_its_call(make: Make, ending: str) -> None:
    waiter = Waiter()
    with serving(make, unary(wait=waiter, echo=echo)) as (_, channel):
        future = channel.unary_unary("/t/wait").future(b"", timeout=0.3 if ending == "deadline" else None)
        call, cancelled = waiter.wait()
        if ending == "cancel":
            future.cancel()
        elif ending == "disconnect":
            channel.close()
        assert cancelled.wait(TIMEOUT_S)
        late = threading.Event()
        call.on_cancel(late.set)
        assert late.wait(TIMEOUT_S)
        echo(call, b"dropped")


def test_a_cancelled_stream_is_reported_to_its_handler(make: Make) -> None:
    waiter = Waiter()
    with serving(make, stream(waiter)) as (_, channel):
        answers = channel.stream_stream("/t/stream")(iter([b""]), timeout=TIMEOUT_S)
        _, cancelled = waiter.wait()
        answers.cancel()
        assert cancelled.wait(TIMEOUT_S)
        assert ask(channel, "echo") == b"x"


def test_concurrent_calls_get_their_own_answers(make: Make) -> None:
    failures: list[str] = []

    def client(number: int) -> None:
        for i in range(100):
            message = f"{number}/{i}".encode()
            if ask(channel, "echo", message) != message:
                failures.append(message.decode())

    with serving(make, unary(echo=answer_from_a_thread)) as (_, channel):
        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert failures == []


def test_stop_waits_for_calls_in_flight_and_refuses_new_ones(make: Make) -> None:
    waiter = Waiter()
    with serving(make, unary(wait=waiter)) as (transport, channel):
        future = channel.unary_unary("/t/wait").future(b"", timeout=TIMEOUT_S)
        call, _ = waiter.wait()
        stopping = threading.Thread(target=transport.stop, args=(TIMEOUT_S,))
        stopping.start()
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:  # until the other thread has started the stop
            late = channel.unary_unary("/t/wait").future(b"", timeout=0.5)
            code = late.code()
            if code is grpc.StatusCode.UNAVAILABLE:
                break
        assert code is grpc.StatusCode.UNAVAILABLE
        echo(call, b"in time")
        assert future.result() == b"in time"
        for other, _ in waiter.calls:
            echo(other, b"")
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()


def test_stop_cancels_calls_after_the_grace_period(make: Make) -> None:
    waiter = Waiter()
    with serving(make, unary(wait=waiter)) as (transport, channel):
        future = channel.unary_unary("/t/wait").future(b"", timeout=TIMEOUT_S)
        call, _ = waiter.wait()
        started_s = time.monotonic()
        transport.stop(0.2)
        assert 0.2 <= time.monotonic() - started_s < 5
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        echo(call, b"dropped")
        transport.stop(0.2)  # a second stop does nothing


def test_a_transport_that_was_never_started_can_be_stopped(make: Make) -> None:
    make("127.0.0.1:0", unary(), OPTIONS, None).stop(0)


def test_a_port_in_use_is_an_error(make: Make) -> None:
    with serving(make, unary()) as (transport, _), pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{transport.port}"):
        make(f"127.0.0.1:{transport.port}", unary(), OPTIONS, None)


def test_the_port_is_free_again_after_a_stop(make: Make) -> None:
    with serving(make, unary()) as (transport, _):
        port = transport.port
    with serving(make, unary(echo=echo), port=port) as (_, channel):
        assert ask(channel, "echo") == b"x"


def test_a_client_connects_with_tls_only(make: Make, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl, which creates the certificate, isn't installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    newkey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *newkey, "-keyout", str(key), "-out", str(certificate), *names]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with serving(make, unary(echo=echo), credentials) as (transport, plain):
        trusting = grpc.ssl_channel_credentials(certificate.read_bytes())
        secure: Any
        with grpc.secure_channel(f"localhost:{transport.port}", trusting) as secure:
            assert ask(secure, "echo") == b"x"
        assert error_of(ask, plain, "echo")[0] == "UNAVAILABLE"


def test_handlers_and_inline_work_run_in_the_polling_thread() -> None:
    """Only the polling transport runs inline work."""
    pending: list[tuple[Call, bytes]] = []
    threads: list[set[int]] = [set(), set()]

    def wait(call: Call, message: bytes) -> None:
        threads[0].add(threading.get_ident())
        pending.append((call, message))

    def run() -> bool:
        threads[1].add(threading.get_ident())
        if pending:
            echo(*pending.pop())
        return bool(pending)

    handlers = Handlers({"/t/wait": wait}, {}, inline=Inline(run))
    with serving(CompletionQueueTransport, handlers) as (_, channel):
        futures = [channel.unary_unary("/t/wait").future(str(n).encode(), timeout=TIMEOUT_S) for n in range(200)]
        assert [future.result() for future in futures] == [str(n).encode() for n in range(200)]
    assert len(threads[0]) == 1
    assert threads[0] == threads[1]


def test_the_polling_thread_handles_all_received_messages_before_it_runs_inline_work() -> None:
    received: list[Call] = []
    runs: list[int] = []
    held, released = threading.Event(), threading.Event()

    def receive(call: Call, message: bytes) -> None:
        received.append(call)
        if message == b"hold":
            held.set()
            assert released.wait(TIMEOUT_S)

    def run() -> bool:
        if received:
            runs.append(len(received))
        while received:
            echo(received.pop(), b"x")
        return False

    with serving(CompletionQueueTransport, Handlers({"/t/receive": receive}, {}, inline=Inline(run))) as (_, channel):
        first = channel.unary_unary("/t/receive").future(b"hold", timeout=TIMEOUT_S)
        assert held.wait(TIMEOUT_S)  # the polling thread is busy, so further calls wait in gRPC
        others = [channel.unary_unary("/t/receive").future(b"", timeout=TIMEOUT_S) for _ in range(8)]
        time.sleep(0.5)  # until all have arrived
        released.set()
        assert [future.result() for future in (first, *others)] == [b"x"] * 9
    assert runs[0] == 1
    assert max(runs) > 1


@pytest.mark.parametrize("answered_by", ["the polling thread", "another thread"])
def test_an_ended_call_is_freed_without_the_garbage_collector(answered_by: str) -> None:
    """Otherwise each call would keep its message until the next collection: 60 calls took 40 MB."""

    def answer(call: Call, message: bytes) -> None:
        call.on_cancel(lambda: call.finish(OK))  # refers to the call, as the callbacks of real requests do
        if answered_by == "another thread":
            threading.Timer(0.01, echo, (call, message)).start()
        else:
            echo(call, message)

    def calls() -> int:
        return sum(type(thing).__name__ == "_UnaryCall" for thing in gc.get_objects())

    with serving(CompletionQueueTransport, unary(answer=answer)) as (_, channel):
        gc.collect()
        before = calls()  # those that another test left behind
        gc.disable()
        try:
            assert [ask(channel, "answer") for _ in range(20)] == [b"x"] * 20
            deadline_s = time.monotonic() + TIMEOUT_S
            while calls() > before and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert calls() <= before
        finally:
            gc.enable()


def test_inline_work_that_raises_does_not_stop_the_server() -> None:
    def fails() -> bool:
        raise ZeroDivisionError

    with serving(CompletionQueueTransport, Handlers({"/t/echo": echo}, {}, inline=Inline(fails))) as (_, channel):
        assert [ask(channel, "echo") for _ in range(3)] == [b"x"] * 3


def test_the_default_status_is_ok() -> None:
    assert OK.code is grpc.StatusCode.OK
