"""Calls on gRPC's completion queue: what is asked of gRPC for each of them, and what its events do.

The polling thread (`transport.completion_queue`) makes them and receives their events; any thread may send their answers.
The interface below, `grpc._cython.cygrpc`, has three rules. Breaking them causes crashes, or calls that never end:

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

from turnout_server.transport.base import (
    NO_MESSAGE,
    NO_RETRY,
    OK,
    STREAM_WINDOW,
    Receiver,
    Status,
    StreamHandler,
    UnaryHandler,
    handler_failed,
)
from turnout_server.transport.in_flight import COUNTED_BYTES, InFlight

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NO_FLAGS = 0
#: In seconds since the epoch, the year 5138: later deadlines mean "no deadline", for which gRPC uses a far later date.
_NEVER = 1e11
#: gRPC's status codes as integers.
_CODES = {code: code.value[0] for code in grpc.StatusCode}


class Round:
    """What the polling thread has collected for the later steps of its round.

    Attributes:
        thread: the polling thread whose round it is.
        received: calls and their messages for the handlers; None instead of a message marks the end of the messages.
        answered: calls with messages or a status to send.
        transfers: calls with a message on its way, and since when, on the monotonic clock. Any thread may use it.
        open_calls: calls whose clients haven't got their status yet.
        in_flight: counts the bytes of large messages, by client.
    """

    def __init__(self, in_flight: InFlight) -> None:
        self.in_flight = in_flight
        self.open_calls: set[_Call] = set()
        self.transfers: dict[UnaryCall | StreamCall, float] = {}
        self.thread: int | None = None
        self.received: list[tuple[UnaryCall | StreamCall, bytes | None]] = []
        self.answered: list[UnaryCall | StreamCall] = []


class _Call:
    """The common part of unary calls and streams. The lock guards the state shared by the polling and the answering threads."""

    __slots__ = (
        "_call",
        "_callbacks",
        "_close_received",
        "_close_requested",
        "_deadline",
        "_held",
        "_holder",
        "_lock",
        "_metadata",
        "_round",
        "_send_closed",
    )
    runs_inline = True  # the polling thread calls all handlers

    def __init__(self, event: Any, round_: Round) -> None:
        self._deadline: float = event.call_details.deadline
        self._metadata = event.invocation_metadata
        self._call = event.call
        self._round = round_
        self._lock = threading.Lock()
        self._held = 0  # bytes that are counted for this call's client
        self._holder = ""  # the client; gRPC forgets who it was once it is gone
        self._close_requested = False
        self._send_closed = False  # nothing more may be sent: the status has been sent, or the client is gone
        self._close_received = False  # gRPC has closed the call: the client is gone, or has received everything
        self._callbacks: list[Callable[[], None]] = []
        round_.open_calls.add(self)

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

    def abandon(self) -> None:
        """Cancels the call, because a message of it doesn't move."""
        self._call.cancel()

    def _refusal(self, message: bytes) -> Status | None:
        """How the call ends if its client already holds too much of the server; else None, and the message is counted."""
        in_flight = self._round.in_flight
        if len(message) < COUNTED_BYTES and not in_flight.is_tight:
            return None
        if (reason := in_flight.refusal(self._peer(), len(message))) is not None:
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, NO_RETRY)
        self._hold(len(message))
        return None

    def _hold(self, size: int) -> None:
        """Counts a message for the call's client, until `_let_go` or the call's end."""
        if size >= COUNTED_BYTES:
            self._holder = self._holder or self._peer()
            self._held += size
            self._round.in_flight.hold(self._holder, size)

    def _let_go(self, size: int) -> None:
        if COUNTED_BYTES <= size <= self._held:
            self._held -= size
            self._round.in_flight.release(self._holder, size)

    def _ended(self) -> None:
        """The client has everything, or is gone."""
        self._round.open_calls.discard(self)
        with self._lock:
            if self._held:
                self._let_go(self._held)

    def _peer(self) -> str:
        return str(self._call.peer(), "latin-1")

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
        if self._send_closed:
            self._ended()
        for callback in callbacks:
            guarded(callback)

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
            self._round.open_calls.discard(self)


class UnaryCall(_Call):
    """A call with one message in each direction. The answer is kept until the status, so that one batch sends both."""

    __slots__ = ("_answer", "_handler", "_status")

    def __init__(self, event: Any, round_: Round, handler: UnaryHandler) -> None:
        super().__init__(event, round_)
        self._handler = handler
        self._answer: bytes | None = None
        self._status: Status | None = None

    def receive(self) -> None:
        self._round.transfers[self] = time.monotonic()
        self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def handle(self, message: bytes | None) -> None:
        if message is None:
            self.finish(NO_MESSAGE)
            return
        if (refusal := self._refusal(message)) is not None:
            self.finish(refusal)
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
                self._hold(len(self._answer))
            operations += self._ending(self._status)
            self._callbacks.clear()  # a reference cycle: they refer to this call
            self._round.transfers[self] = time.monotonic()
            self._start(operations, self._answered)

    def _answered(self, event: Any) -> None:
        """Completes the last operations of the call: its client has taken the answer, or is gone."""
        self._round.transfers.pop(self, None)
        self._ended()

    def _received(self, event: Any) -> None:
        self._round.transfers.pop(self, None)
        self._round.received.append((self, event.batch_operations[0].message()))


class StreamCall(_Call):
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
        "_sending_bytes",
        "_sizes",
        "_status",
    )

    def __init__(self, event: Any, round_: Round, handler: StreamHandler) -> None:
        super().__init__(event, round_)
        self._handler = handler
        self._receiver: Receiver | None = None
        self._outbox: deque[bytes] = deque()
        self._status: Status | None = None
        self._metadata_sent = False  # the initial metadata
        self._sending = False
        self._sending_bytes = 0
        self._sizes: deque[int] = deque()  # in bytes, of the messages that haven't been answered
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
        if message is not None:
            if (refusal := self._refusal(message)) is not None:
                self.finish(refusal)
                return
            self._sizes.append(len(message))
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
            self._let_go(self._sizes.popleft() if self._sizes else 0)
            self._hold(len(message))
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
            message = self._outbox.popleft()
            self._sending_bytes = len(message)
            operations.append(cygrpc.SendMessageOperation(message, _NO_FLAGS))
        if self._status and not self._outbox:
            operations += self._ending(self._status)
        self._sending = True
        self._round.transfers[self] = time.monotonic()
        self._start(operations, self._sent)

    def _sent(self, event: Any) -> None:
        self._round.transfers.pop(self, None)
        with self._lock:
            self._sending = False
            self._let_go(self._sending_bytes)
            self._sending_bytes = 0
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


def guarded(function: Callable[..., T], *arguments: Any) -> T | None:
    """Calls `function` and logs any exception, because the polling thread must survive it."""
    try:
        return function(*arguments)
    except BaseException:
        logger.exception("the polling thread continues after an error")
        return None
