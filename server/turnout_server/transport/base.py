"""The interface between gRPC and the rest of the server.

A handler receives a call and its messages as bytes, and answers through the call from any thread. The two transports, `aio` and
`completion_queue`, run the same handlers and pass the same tests.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import grpc

from turnout_server.core.errors import status_of, unexpected_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """How a call ends: a code, a text for humans, and metadata that follows the last message."""

    code: grpc.StatusCode
    details: str = ""
    trailing_metadata: tuple[tuple[str, str], ...] = ()


OK = Status(grpc.StatusCode.OK)
#: Trailing metadata with which clients don't retry by themselves.
NO_RETRY = (("grpc-retry-pushback-ms", "-1"),)
#: How a unary call ends whose client closes it without having sent a message.
NO_MESSAGE = Status(grpc.StatusCode.UNIMPLEMENTED, "a unary call requires exactly one request message")


def handler_failed() -> Status:
    """The status of a call whose handler raised the exception being handled. Logs that exception, because it is a bug."""
    shown = unexpected_error()
    logger.exception("a handler failed: %s", shown)
    return Status(grpc.StatusCode[status_of(shown)], str(shown))


class Call(Protocol):
    """A call in flight. Every method may be called from any thread.

    Attributes:
        metadata: from the client; values of keys that end in `-bin` may be bytes, or missing.
        deadline_s: when the client stops waiting, on the monotonic clock; None if it never does.
        runs_inline: whether the thread that calls the handler then runs `Handlers.inline`.
    """

    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def deadline_s(self) -> float | None: ...
    @property
    def runs_inline(self) -> bool: ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the client cancels or disconnects before the call ends; at once if that has happened.

        For a stream also when the call ends, because nothing can use the results of requests that still run.
        """
        ...

    def send(self, message: bytes) -> None:
        """Sends a message. Messages keep their order; after the call has ended they are dropped."""
        ...

    def finish(self, status: Status = OK) -> None:
        """Ends the call after the messages sent before. Only the first status counts."""
        ...


class Receiver(Protocol):
    """Receives the messages of one streaming call. Called from one thread at a time."""

    def message(self, data: bytes) -> None:
        """Handles a message. The next one isn't read while STREAM_WINDOW answers are outstanding."""
        ...

    def half_closed(self) -> None:
        """Called after the client's last message."""
        ...


#: Handles a call with exactly one request message. Must not block and must not raise.
UnaryHandler = Callable[[Call, bytes], None]
#: Handles a call with any number of request messages.
StreamHandler = Callable[[Call], Receiver]
#: Says how a call on a path with this metadata ends before its messages are read; None lets it begin.
Refusal = Callable[[str, Mapping[str, str]], Status | None]


class InlineWork(Protocol):
    """Work that handlers leave to the thread that called them."""

    def run(self) -> bool:
        """Does some of the work, for less than a millisecond; True if more is left."""
        ...


@dataclass(frozen=True)
class Handlers:
    """The handlers of a server's RPCs, by path (`/package.Service/Method`).

    Attributes:
        inline: run by a polling transport after it has passed all received messages to the handlers; None for none.
        refusal: asked about every call, on any thread; None if every client may call everything.
    """

    unary: Mapping[str, UnaryHandler]
    stream: Mapping[str, StreamHandler]
    inline: InlineWork | None = None
    refusal: Refusal | None = None


class Transport(Protocol):
    """A gRPC server that runs in its own threads."""

    @property
    def port(self) -> int:
        """The bound port, known after construction."""
        ...

    def start(self) -> None:
        """Starts to answer calls."""
        ...

    def stop(self, grace_s: float) -> None:
        """Refuses new calls, waits up to `grace_s` for calls in flight, cancels the rest, and returns when all have ended."""
        ...


#: How many answers of a stream may be outstanding before the transport stops reading its messages.
STREAM_WINDOW = 64
