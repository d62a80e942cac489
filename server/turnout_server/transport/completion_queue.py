"""The transport straight on gRPC's completion queue: one thread polls, and replies start from whichever thread has them.

`grpc.server` and `grpc.aio` stand on the same queue, but hand each call to a thread pool or an event loop, which costs more
than a small model does. The interface below them, `grpc._cython.cygrpc`, is private: this is the one module that touches it,
and `selection` tries it out before it is used.

The polling thread works in rounds, and in each does one thing for all calls before the next: take what came from gRPC, run the
handlers, run what they brought together, hand the answers to gRPC. gRPC's code and Python's push each other out of the
processor's caches, so taking turns for every call costs a small request 40 % more CPU.

Three rules of that interface, which break as crashes or as calls that never end: an operation belongs to one batch of one
call and is made anew for each; of each kind of operation a call has one in flight; an event keeps its call alive, so it is
dropped before the next poll.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from turnout_server.transport.base import (
    OK,
    STREAM_WINDOW,
    Call,
    Handlers,
    Receiver,
    Status,
    StreamHandler,
    UnaryHandler,
    handler_failed,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What this module takes from `cygrpc`.
NEEDED = (
    "CompletionQueue",
    "CompletionType",
    "ReceiveCloseOnServerOperation",
    "ReceiveMessageOperation",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
    "SendStatusFromServerOperation",
    "Server",
)
#: Calls that gRPC may hand over without waiting for us to ask for the next.
REQUESTED_CALLS = 64
#: Events taken in a round: three make a call, so no call waits behind more than some twenty others.
EVENTS_A_ROUND = 64
#: Polls in a row that bring nothing before a round has all there is: each looks at one socket, and others may have something.
EMPTY_POLLS = 3
#: After its calls were cancelled a server needs milliseconds to end; one that takes longer is left behind.
CANCEL_TIMEOUT_S = 5.0

_NO_FLAGS = 0
_AT_ONCE = 0  # a moment in the past
#: gRPC's "no deadline" is a date centuries ahead; this is in the year 5138, in seconds since the epoch.
_NEVER = 1e11
#: gRPC's numbers of the statuses.
_CODES = {code: code.value[0] for code in grpc.StatusCode}
_NO_MESSAGE = Status(grpc.StatusCode.UNIMPLEMENTED, "a unary call requires exactly one request message")
_NO_METHOD = Status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class CompletionQueueTransport:
    """Runs `handlers` in a polling thread.

    Args:
        address: `host:port`; port 0 picks a free one.
        options: gRPC channel arguments.
        credentials: for TLS; none means plain text.

    Raises:
        OSError: the address can't be bound.
        ImportError: this grpcio isn't one that this module knows.
    """

    def __init__(
        self,
        address: str,
        handlers: Handlers,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        if missing := [name for name in NEEDED if not hasattr(cygrpc, name)]:
            raise ImportError(f"grpc._cython.cygrpc has no {' and no '.join(missing)}")
        self._unary = {path.encode(): handler for path, handler in handlers.unary.items()}
        self._stream = {path.encode(): handler for path, handler in handlers.stream.items()}
        self._inline = handlers.inline
        self._round = _Round()
        self._ended = False
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(list(options), False)
        self._server.register_completion_queue(self._queue)
        secure = () if credentials is None else (credentials._credentials,)  # type: ignore[attr-defined]
        self.port: int = self._server.add_http2_port(address.encode(), *secure)
        if not self.port:
            self._server.destroy()
            raise OSError(f"cannot listen on {address}: the address is taken, or not this machine's")
        self._thread = threading.Thread(target=self._poll, name="transport", daemon=True)

    def start(self) -> None:
        """See Transport."""
        self._server.start()
        for _ in range(REQUESTED_CALLS):
            self._request_call()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """See Transport."""
        if not self._thread.ident:  # never started: gRPC ends only what has begun
            self.start()
        self._server.shutdown(self._queue, self._shut_down)
        self._thread.join(grace_s)
        if self._thread.is_alive():
            self._server.cancel_all_calls()
            self._thread.join(CANCEL_TIMEOUT_S)
        if self._ended:  # not before: `shutdown` above may still be inside gRPC when its event is out
            self._server.destroy()

    def _poll(self) -> None:
        self._round.thread = threading.get_ident()
        more = False
        while not self._ended:
            self._take(_AT_ONCE if more else None)
            more = self._answer()

    def _answer(self) -> bool:
        """Answers what was taken; True if more is waiting to be run."""
        received, answered = self._round.received, self._round.answered
        for call, message in received:
            _guarded(call.handle, message)
        more = self._inline is not None and bool(_guarded(self._inline.run))
        for call in answered:
            _guarded(call.flush)
        for call, _ in received:
            _guarded(call.watch)
        received.clear()
        answered.clear()
        return more

    def _take(self, until: float | None) -> None:
        """Waits for an event until then, None for ever, and takes it and those behind it."""
        poll, nothing, empty = self._queue.poll, cygrpc.CompletionType.queue_timeout, 0
        for _ in range(EVENTS_A_ROUND):
            event = poll(until)
            until = _AT_ONCE
            if event.completion_type == nothing:
                empty += 1
                if empty == EMPTY_POLLS:
                    return
                continue
            empty = 0
            _guarded(event.tag, event)
            event = None  # see above: it keeps its call alive

    def _request_call(self) -> None:
        try:
            self._server.request_call(self._queue, self._queue, self._accept)
        except ValueError:
            logger.debug("no more calls: the server is shutting down")

    def _accept(self, event: Any) -> None:
        if not event.success:  # asked for in advance, and given back by the shutdown
            return
        self._request_call()
        method = event.call_details.method
        if (unary := self._unary.get(method)) is not None:
            _UnaryCall(event, self._round, unary).receive()
        elif (stream := self._stream.get(method)) is not None:
            _StreamCall(event, self._round, stream).open()
        else:
            _UnaryCall(event, self._round, _no_handler).finish(_NO_METHOD)

    def _shut_down(self, _: Any) -> None:
        self._ended = True


class _Round:
    """What the polling thread has put off until it has all of its kind together.

    Attributes:
        thread: the polling thread.
        received: calls with a message that their handlers haven't seen yet; None says that it was the last.
        answered: calls with something to send.
    """

    def __init__(self) -> None:
        self.thread: int | None = None
        self.received: list[tuple[_UnaryCall | _StreamCall, bytes | None]] = []
        self.answered: list[_UnaryCall | _StreamCall] = []


class _Call:
    """What unary calls and streams have in common. The lock guards what the poller shares with the threads that answer."""

    __slots__ = ("_call", "_callbacks", "_deadline", "_gone", "_lock", "_metadata", "_over", "_round", "_watched")
    runs_inline = True  # every handler is called by the polling thread

    def __init__(self, event: Any, round_: _Round) -> None:
        self._deadline: float = event.call_details.deadline
        self._metadata = event.invocation_metadata
        self._call = event.call
        self._round = round_
        self._lock = threading.Lock()
        self._watched = False
        self._over = False  # nothing more is sent: the status is on its way, or the client is gone
        self._gone = False  # the client, or it has everything
        self._callbacks: list[Callable[[], None]] = []

    @property
    def metadata(self) -> Mapping[str, str]:
        return dict(self._metadata)

    @property
    def deadline_s(self) -> float | None:
        return None if self._deadline > _NEVER else time.monotonic() + self._deadline - time.time()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._gone:
                self._callbacks.append(callback)
                return
        callback()

    def watch(self) -> None:
        """Listens for the client going away, which costs an event; a call that is answered at once does it as it ends."""
        with self._lock:
            if not self._watched and not self._over:
                self._watched = True
                self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    def _closed(self, event: Any) -> None:
        with self._lock:
            self._gone = True
            if event.batch_operations[0].cancelled():
                self._over = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _guarded(callback)

    def _ending(self, status: Status) -> list[Any]:
        """The operations that end the call; the last ones that it may start."""
        self._over = True
        operations = [
            cygrpc.SendStatusFromServerOperation(status.trailing_metadata, _CODES[status.code], status.details, _NO_FLAGS)
        ]
        if not self._watched:  # a call whose close was never received is reset when it is dropped
            self._watched = True
            operations.append(cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS))
        return operations

    def _start(self, operations: Sequence[Any], tag: Callable[[Any], None]) -> None:
        error = self._call.start_server_batch(operations, tag)
        if error:  # a status that gRPC refuses, say; the call must not stay open for ever
            logger.error("gRPC refused %s with error %d", [type(operation).__name__ for operation in operations], error)
            self._call.cancel()


class _UnaryCall(_Call):
    """A call with one message each way; the answer waits for its status, so that one batch of operations carries both."""

    __slots__ = ("_answer", "_handler", "_status")

    def __init__(self, event: Any, round_: _Round, handler: UnaryHandler) -> None:
        super().__init__(event, round_)
        self._handler = handler
        self._answer: bytes | None = None
        self._status: Status | None = None

    def receive(self) -> None:
        self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def handle(self, message: bytes | None) -> None:
        if message is None:
            self.finish(_NO_MESSAGE)
            return
        try:
            self._handler(self, message)
        except BaseException:
            self.finish(handler_failed())

    def send(self, message: bytes) -> None:
        if self._status is None:
            self._answer = message

    def finish(self, status: Status = OK) -> None:
        with self._lock:
            if self._status is not None:
                return
            self._status = status
        if threading.get_ident() == self._round.thread:
            self._round.answered.append(self)
        else:
            self.flush()

    def flush(self) -> None:
        """Hands the answer to gRPC."""
        with self._lock:
            if self._over or self._status is None:
                return
            operations = [cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS)]
            if self._answer is not None:
                operations.append(cygrpc.SendMessageOperation(self._answer, _NO_FLAGS))
            operations += self._ending(self._status)
            self._callbacks.clear()  # they refer to this call, and would keep it until the garbage collector comes
            self._start(operations, _ended)

    def _received(self, event: Any) -> None:
        self._round.received.append((self, event.batch_operations[0].message()))


class _StreamCall(_Call):
    """A call with any number of messages each way. It reads on while few answers are due or waiting to be sent.

    Answers wait in `_outbox` until the batch of operations before them is through; `flush` starts the next one.
    """

    __slots__ = ("_due", "_handler", "_opened", "_outbox", "_put_off", "_reading", "_receiver", "_sending", "_status")

    def __init__(self, event: Any, round_: _Round, handler: StreamHandler) -> None:
        super().__init__(event, round_)
        self._handler = handler
        self._receiver: Receiver | None = None
        self._outbox: deque[bytes] = deque()
        self._status: Status | None = None
        self._opened = False  # initial metadata has been sent
        self._sending = False
        self._put_off = False  # it is among the answered of this round; by the poller alone
        self._due = 0  # messages not answered yet
        self._reading = False

    def open(self) -> None:
        self.watch()
        try:
            self._receiver = self._handler(self)
        except BaseException:
            self.finish(handler_failed())
        with self._lock:
            self._read_next()

    def handle(self, message: bytes | None) -> None:
        if self._receiver is None:  # the call has ended
            return
        try:
            if message is None:
                self._receiver.half_closed()
            else:
                self._receiver.message(message)
        except BaseException:
            self.finish(handler_failed())

    def send(self, message: bytes) -> None:
        with self._lock:
            if self._status is not None or self._over:
                return
            self._outbox.append(message)
            self._due = max(0, self._due - 1)
        self._flush_soon()

    def finish(self, status: Status = OK) -> None:
        with self._lock:
            if self._status is not None:
                return
            self._status = status
        self._flush_soon()

    def flush(self) -> None:
        """Hands gRPC what may be sent now."""
        self._put_off = False
        with self._lock:
            self._send_next()

    def _flush_soon(self) -> None:
        """Flushes; the polling thread does so at the end of its round."""
        if threading.get_ident() != self._round.thread:
            self.flush()
        elif not self._put_off:
            self._put_off = True
            self._round.answered.append(self)

    def _send_next(self) -> None:
        if self._sending or self._over or not (self._outbox or self._status):
            return
        operations = []
        if not self._opened:
            self._opened = True
            operations.append(cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS))
        if self._outbox:
            operations.append(cygrpc.SendMessageOperation(self._outbox.popleft(), _NO_FLAGS))
        if self._status and not self._outbox:
            operations += self._ending(self._status)
        self._sending = True
        self._start(operations, self._sent)

    def _sent(self, event: Any) -> None:
        with self._lock:
            self._sending = False
            self._send_next()
            self._read_next()

    def _read_next(self) -> None:
        if not (self._reading or self._status or self._over or self._due + len(self._outbox) >= STREAM_WINDOW):
            self._reading = True
            self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def _received(self, event: Any) -> None:
        message = event.batch_operations[0].message()
        self._round.received.append((self, message))
        if message is not None:  # after the last one `_reading` stays set
            with self._lock:
                self._due += 1
                self._reading = False
                self._read_next()

    def _closed(self, event: Any) -> None:
        super()._closed(event)
        if self._over:
            self._outbox.clear()
        self._receiver = None  # it refers to this call, too


def _no_handler(call: Call, message: bytes) -> None:
    """For a call that is refused before its message is read."""


def _ended(event: Any) -> None:
    """The last operations of a unary call are through."""


def _guarded(function: Callable[..., T], *arguments: Any) -> T | None:
    """Calls; whatever goes wrong is logged, because the polling thread must outlive it."""
    try:
        return function(*arguments)
    except BaseException:
        logger.exception("the polling thread goes on after an error")
        return None
