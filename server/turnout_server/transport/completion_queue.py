"""The transport directly on gRPC's completion queue: one thread polls, and any thread may send answers.

`grpc.server` and `grpc.aio` use the same queue, but pass each call to a thread pool or an event loop, which costs more than a
small model. The interface below them, `grpc._cython.cygrpc`, is private. Only this module uses it, and `selection` checks that
it works before a server relies on it.

The polling thread works in rounds. In each round it does the following steps, each for all calls before the next step:

1. receive events from gRPC,
2. call the handlers,
3. run the inline work that the handlers submitted,
4. pass the answers to gRPC.

gRPC's code and Python's evict each other from the processor's caches: doing all steps for one call after the other would cost a
small request 40 % more CPU.

The interface has three rules. Breaking them causes crashes, or calls that never end:

- An operation object belongs to one batch of operations of one call, and must not be reused.
- A call may have only one operation of each type in flight.
- An event keeps its call alive, so it must be released before the next poll.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from turnout_server.transport.addresses import may_share, require_free
from turnout_server.transport.base import (
    NO_MESSAGE,
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

#: The names in `cygrpc` that this module uses.
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
#: How many calls are requested from gRPC in advance.
REQUESTED_CALLS = 64
#: Events per round. A call has three events, so a round is limited to about twenty calls.
EVENTS_PER_ROUND = 64
#: A round ends after this many consecutive empty polls. One isn't enough: a poll looks at one socket only.
EMPTY_POLLS = 3
#: How long `stop` waits for the server to end after cancelling its calls, which normally takes milliseconds.
CANCEL_TIMEOUT_S = 5.0

_NO_FLAGS = 0
_AT_ONCE = 0  # a deadline in the past
#: In seconds since the epoch, the year 5138: later deadlines mean "no deadline", for which gRPC uses a far later date.
_NEVER = 1e11
#: gRPC's status codes as integers.
_CODES = {code: code.value[0] for code in grpc.StatusCode}
_NO_METHOD = Status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class CompletionQueueTransport:
    """Runs `handlers` in a polling thread.

    Args:
        address: as `addresses.target` returns it; port 0 selects a free one.
        options: gRPC channel arguments.
        credentials: for TLS; None for plain text.

    Raises:
        OSError: the address can't be bound.
        ImportError: this version of grpcio lacks some of NEEDED.
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
        require_free(address, shared=may_share(options))
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(list(options), False)
        self._server.register_completion_queue(self._queue)
        secure = () if credentials is None else (credentials._credentials,)  # type: ignore[attr-defined]
        self.port: int = self._server.add_http2_port(address.encode(), *secure)
        if not self.port:
            self._server.destroy()
            raise OSError(f"cannot listen on {address}: gRPC says why in its log")
        self._thread = threading.Thread(target=self._poll, name="transport", daemon=True)

    def start(self) -> None:
        """See Transport."""
        self._server.start()
        for _ in range(REQUESTED_CALLS):
            self._request_call()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """See Transport."""
        if not self._thread.ident:  # never started: gRPC only shuts down servers that run
            self.start()
        self._server.shutdown(self._queue, self._shut_down)
        self._thread.join(grace_s)
        if self._thread.is_alive():
            self._server.cancel_all_calls()
            self._thread.join(CANCEL_TIMEOUT_S)
        if self._ended:  # if it timed out, `shutdown` may still run inside gRPC
            self._server.destroy()

    def _poll(self) -> None:
        self._round.thread = threading.get_ident()
        more = False
        while not self._ended:
            self._receive_events(_AT_ONCE if more else None)
            more = self._handle_events()

    def _handle_events(self) -> bool:
        """Does steps 2 to 4 of a round; True if inline work is left."""
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

    def _receive_events(self, until_s: float | None) -> None:
        """Waits for an event until `until_s` (None for no limit) and receives all events that are ready."""
        poll, timed_out, empty_polls = self._queue.poll, cygrpc.CompletionType.queue_timeout, 0
        for _ in range(EVENTS_PER_ROUND):
            event = poll(until_s)
            until_s = _AT_ONCE
            if event.completion_type == timed_out:
                empty_polls += 1
                if empty_polls == EMPTY_POLLS:
                    return
                continue
            empty_polls = 0
            _guarded(event.tag, event)
            event = None  # releases the call before the next poll

    def _request_call(self) -> None:
        try:
            self._server.request_call(self._queue, self._queue, self._accept)
        except ValueError:
            logger.debug("no further calls are requested: the server is shutting down")

    def _accept(self, event: Any) -> None:
        if not event.success:  # the shutdown returns calls that were requested in advance
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
    """What the polling thread has collected for the later steps of its round.

    Attributes:
        thread: the polling thread.
        received: calls and their messages for the handlers; None instead of a message marks the end of the messages.
        answered: calls with messages or a status to send.
    """

    def __init__(self) -> None:
        self.thread: int | None = None
        self.received: list[tuple[_UnaryCall | _StreamCall, bytes | None]] = []
        self.answered: list[_UnaryCall | _StreamCall] = []


class _Call:
    """The common part of unary calls and streams. The lock guards the state shared by the polling and the answering threads."""

    __slots__ = (
        "_call",
        "_callbacks",
        "_close_received",
        "_close_requested",
        "_deadline",
        "_lock",
        "_metadata",
        "_round",
        "_send_closed",
    )
    runs_inline = True  # the polling thread calls all handlers

    def __init__(self, event: Any, round_: _Round) -> None:
        self._deadline: float = event.call_details.deadline
        self._metadata = event.invocation_metadata
        self._call = event.call
        self._round = round_
        self._lock = threading.Lock()
        self._close_requested = False
        self._send_closed = False  # nothing more may be sent: the status has been sent, or the client is gone
        self._close_received = False  # gRPC has closed the call: the client is gone, or has received everything
        self._callbacks: list[Callable[[], None]] = []

    @property
    def metadata(self) -> Mapping[str, str]:
        return dict(self._metadata)

    @property
    def deadline_s(self) -> float | None:
        return None if self._deadline > _NEVER else time.monotonic() + self._deadline - time.time()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._close_received:
                self._callbacks.append(callback)
                return
        callback()

    def watch(self) -> None:
        """Requests the event of the call's close, which tells of cancellation. `_ending` does so for calls answered at once."""
        with self._lock:
            if not self._close_requested and not self._send_closed:
                self._close_requested = True
                self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    def _closed(self, event: Any) -> None:
        with self._lock:
            self._close_received = True
            if event.batch_operations[0].cancelled():
                self._send_closed = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _guarded(callback)

    def _ending(self, status: Status) -> list[Any]:
        """The operations that end the call. No others may follow."""
        self._send_closed = True
        operations = [
            cygrpc.SendStatusFromServerOperation(status.trailing_metadata, _CODES[status.code], status.details, _NO_FLAGS)
        ]
        if not self._close_requested:  # gRPC resets a call that is released without having received its close
            self._close_requested = True
            operations.append(cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS))
        return operations

    def _start(self, operations: Sequence[Any], tag: Callable[[Any], None]) -> None:
        error = self._call.start_server_batch(operations, tag)
        if error:  # for example, gRPC refuses the status; the call must not stay open for ever
            logger.error("gRPC refused %s with error %d", [type(operation).__name__ for operation in operations], error)
            self._call.cancel()


class _UnaryCall(_Call):
    """A call with one message in each direction. The answer is kept until the status, so that one batch sends both."""

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
            self.finish(NO_MESSAGE)
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
        """Passes the answer and the status to gRPC."""
        with self._lock:
            if self._send_closed or self._status is None:
                return
            operations = [cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS)]
            if self._answer is not None:
                operations.append(cygrpc.SendMessageOperation(self._answer, _NO_FLAGS))
            operations += self._ending(self._status)
            self._callbacks.clear()  # a reference cycle: they refer to this call
            self._start(operations, _ended)

    def _received(self, event: Any) -> None:
        self._round.received.append((self, event.batch_operations[0].message()))


class _StreamCall(_Call):
    """A call with any number of messages in both directions.

    Messages to send wait in `_outbox` until the previous batch of operations has completed. The next message is read only while
    fewer than STREAM_WINDOW answers are due or wait to be sent.
    """

    __slots__ = (
        "_due",
        "_flush_scheduled",
        "_handler",
        "_metadata_sent",
        "_outbox",
        "_reading",
        "_receiver",
        "_sending",
        "_status",
    )

    def __init__(self, event: Any, round_: _Round, handler: StreamHandler) -> None:
        super().__init__(event, round_)
        self._handler = handler
        self._receiver: Receiver | None = None
        self._outbox: deque[bytes] = deque()
        self._status: Status | None = None
        self._metadata_sent = False  # the initial metadata
        self._sending = False
        self._flush_scheduled = False  # it is in `answered` of this round; only the polling thread uses this
        self._due = 0  # messages that haven't been answered
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
            if self._status is not None or self._send_closed:
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
        """Passes to gRPC what may be sent now."""
        self._flush_scheduled = False
        with self._lock:
            self._send_next()

    def _flush_soon(self) -> None:
        """Flushes at once, or in the polling thread at the end of the round."""
        if threading.get_ident() != self._round.thread:
            self.flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self._round.answered.append(self)

    def _send_next(self) -> None:
        if self._sending or self._send_closed or not (self._outbox or self._status):
            return
        operations = []
        if not self._metadata_sent:
            self._metadata_sent = True
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
        if not (self._reading or self._status or self._send_closed or self._due + len(self._outbox) >= STREAM_WINDOW):
            self._reading = True
            self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def _received(self, event: Any) -> None:
        message = event.batch_operations[0].message()
        self._round.received.append((self, message))
        if message is not None:  # None is the end: `_reading` stays set, so nothing more is read
            with self._lock:
                self._due += 1
                self._reading = False
                self._read_next()

    def _closed(self, event: Any) -> None:
        super()._closed(event)
        if self._send_closed:
            self._outbox.clear()
        self._receiver = None  # a reference cycle: it refers to this call


def _no_handler(call: Call, message: bytes) -> None:
    """The handler of calls that are refused before their message is read."""


def _ended(event: Any) -> None:
    """Completes the last operations of a unary call; nothing is left to do."""


def _guarded(function: Callable[..., T], *arguments: Any) -> T | None:
    """Calls `function` and logs any exception, because the polling thread must survive it."""
    try:
        return function(*arguments)
    except BaseException:
        logger.exception("the polling thread continues after an error")
        return None
