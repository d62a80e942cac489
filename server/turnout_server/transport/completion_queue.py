"""The transport directly on gRPC's completion queue: one thread polls, and any thread may send answers.

`grpc.server` and `grpc.aio` use the same queue, but pass each call to a thread pool or an event loop, which costs more than a
small model. The interface below them, `grpc._cython.cygrpc`, is private. Only this module and `completion_queue_calls` use it,
and `selection` checks that it works before a server relies on it.

The polling thread works in rounds. In each round it does the following steps, each for all calls before the next step:

1. receive events from gRPC,
2. call the handlers,
3. run the inline work that the handlers submitted,
4. pass the answers to gRPC.

While gRPC doesn't let the polling thread go, another one takes its place (`polling_threads`).

gRPC's code and Python's evict each other from the processor's caches: doing all steps for one call after the other would cost a
small request 40 % more CPU.
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from turnout_server.transport.addresses import may_share, require_free
from turnout_server.transport.base import Call, Handlers, Status
from turnout_server.transport.completion_queue_calls import Round, StreamCall, UnaryCall, guarded
from turnout_server.transport.in_flight import InFlight
from turnout_server.transport.limits import DRAIN_STALL_S, NO_LIMITS, Limits
from turnout_server.transport.polling_threads import WATCH_S, PollingThreads

logger = logging.getLogger(__name__)

#: The names in `cygrpc` that this module and `completion_queue_calls` use.
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

_AT_ONCE = 0  # a deadline in the past
_NO_METHOD = Status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class CompletionQueueTransport:
    """Runs `handlers` in a polling thread. A second thread ends the calls whose messages don't move.

    Args:
        address: as `addresses.target` returns it; port 0 selects a free one.
        options: gRPC channel arguments.
        credentials: for TLS; None for plain text.
        limits: those that gRPC doesn't keep by itself: of stalled messages and of bytes.

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
        limits: Limits = NO_LIMITS,
    ) -> None:
        if missing := [name for name in NEEDED if not hasattr(cygrpc, name)]:
            raise ImportError(f"grpc._cython.cygrpc has no {' and no '.join(missing)}")
        self._unary = {path.encode(): handler for path, handler in handlers.unary.items()}
        self._stream = {path.encode(): handler for path, handler in handlers.stream.items()}
        self._inline = handlers.inline
        self._refusal = handlers.refusal
        self._round = Round(InFlight(limits.in_flight_bytes))
        self._stall_s = limits.stall_s
        self._ended = False
        self._inline_left = False
        self._handling = threading.Lock()  # guards the round, which the polling thread shares with its stand-ins
        require_free(address, shared=may_share(options))
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(list(options), False)
        self._server.register_completion_queue(self._queue)
        secure = () if credentials is None else (credentials._credentials,)  # type: ignore[attr-defined]
        self.port: int = self._server.add_http2_port(address.encode(), *secure)
        if not self.port:
            self._server.destroy()
            raise OSError(f"cannot listen on {address}: gRPC says why in its log")
        self._threads = PollingThreads(self._poll, lambda: self._ended, self._end_stalled)

    def start(self) -> None:
        """See Transport."""
        self._server.start()
        for _ in range(REQUESTED_CALLS):
            self._request_call()
        self._threads.start()

    def stop(self, grace_s: float) -> None:
        """See Transport."""
        if not self._threads.started:  # never started: gRPC only shuts down servers that run
            self.start()
        self._stall_s = DRAIN_STALL_S
        self._server.shutdown(self._queue, self._shut_down)
        self._await_end(grace_s)
        if self._threads.alive:
            self._server.cancel_all_calls()
            self._threads.join(CANCEL_TIMEOUT_S)
        if self._ended:  # if it timed out, `shutdown` may still run inside gRPC
            self._server.destroy()

    def _await_end(self, grace_s: float) -> None:
        """Waits for the end of the server, up to `grace_s`, but no longer than calls are open.

        Before gRPC closes a connection it waits 20 s for a sign of life, which a client that doesn't read never gives.
        """
        now_s = busy_s = time.monotonic()
        ends_s = now_s + grace_s
        while self._threads.alive and now_s < min(ends_s, busy_s + DRAIN_STALL_S):
            self._threads.join(min(WATCH_S, ends_s - now_s))
            now_s = time.monotonic()
            if self._round.open_calls:
                busy_s = now_s

    def _end_stalled(self) -> None:
        """Cancels the calls with a message that has been on its way for too long."""
        if not self._stall_s:
            return
        since_s = time.monotonic() - self._stall_s
        stalled = [call for call, started_s in self._round.transfers.copy().items() if started_s < since_s]
        for call in stalled:
            self._round.transfers.pop(call, None)
            call.abandon()
        if stalled:
            logger.info("ended %d calls whose messages didn't move for %g s", len(stalled), self._stall_s)

    def _poll(self, longest_s: float) -> None:
        """A round, which waits for `longest_s` at most."""
        self._receive_events(_AT_ONCE if self._inline_left else time.time() + longest_s)
        self._inline_left = self._handle_events()

    def _handle_events(self) -> bool:
        """Does steps 2 to 4 of a round; True if inline work is left."""
        received, answered = self._round.received, self._round.answered
        with self._handling:
            self._round.thread = threading.get_ident()
            for call, message in received:
                guarded(call.handle, message)
            more = self._inline is not None and bool(guarded(self._inline.run))
            for call in answered:
                guarded(call.flush)
            for call, _ in received:
                guarded(call.watch)
            received.clear()
            answered.clear()
        return more

    def _receive_events(self, until_s: float) -> None:
        """Waits for an event until `until_s`, in seconds since the epoch, and receives all events that are ready."""
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
            with self._handling:
                guarded(event.tag, event)
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
        if self._refusal is not None and (status := self._refusal(method.decode("latin-1"), dict(event.invocation_metadata))):
            UnaryCall(event, self._round, _no_handler).finish(status)
        elif (unary := self._unary.get(method)) is not None:
            UnaryCall(event, self._round, unary).receive()
        elif (stream := self._stream.get(method)) is not None:
            StreamCall(event, self._round, stream).open()
        else:
            UnaryCall(event, self._round, _no_handler).finish(_NO_METHOD)

    def _shut_down(self, _: Any) -> None:
        self._ended = True


def _no_handler(call: Call, message: bytes) -> None:
    """The handler of calls that are refused before their message is read."""
