"""The seam between gRPC and everything else.

A handler is told of a call and its messages, as bytes, and answers through the call from any thread, once or many times.
Whatever carries it (`aio`, or the completion queue) is a Transport; both run the same handlers and pass the same tests.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import grpc

from turnout_server.core.errors import internal_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """How a call ends: a code, a text for people, and metadata after the last message."""

    code: grpc.StatusCode
    details: str = ""
    trailing_metadata: tuple[tuple[str, str], ...] = ()


OK = Status(grpc.StatusCode.OK)


def handler_failed() -> Status:
    """How a call ends whose handler raised the exception being handled: that is a bug, so the log gets all of it."""
    hidden = internal_error()
    logger.exception("a handler failed: %s", hidden)
    return Status(grpc.StatusCode.INTERNAL, str(hidden))


class Call(Protocol):
    """A call in flight. Every method may be called from any thread.

    Attributes:
        metadata: what the client sent along; values of keys that end in `-bin` are bytes.
        deadline_s: when the client stops waiting, on the monotonic clock; None if never.
        runs_inline: whether the thread that calls the handler runs `Handlers.inline` afterwards.
    """

    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def deadline_s(self) -> float | None: ...
    @property
    def runs_inline(self) -> bool: ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the client goes away before the call has ended; at once if it is gone already.

        On a stream also when it has ended, because what runs for it then is for nobody.
        """
        ...

    def send(self, message: bytes) -> None:
        """Sends a message. Messages keep their order; those of a call that has ended are dropped."""
        ...

    def finish(self, status: Status = OK) -> None:
        """Ends the call after what was sent. The first one counts."""
        ...


class Receiver(Protocol):
    """What a streaming handler makes of one call's messages. Called from one thread at a time."""

    def message(self, data: bytes) -> None:
        """One more message. The next is read only while few answers are outstanding."""
        ...

    def half_closed(self) -> None:
        """The client has sent its last message."""
        ...


#: Handles a call with exactly one request message. Must not block and must not raise.
UnaryHandler = Callable[[Call, bytes], None]
#: Handles a call with any number of request messages.
StreamHandler = Callable[[Call], Receiver]


class InlineWork(Protocol):
    """Work that handlers leave for the thread that called them."""

    def run(self) -> bool:
        """Does some of it, for a fraction of a millisecond at most; True if there is more."""
        ...


@dataclass(frozen=True)
class Handlers:
    """What a server answers, by the RPC's path (`/package.Service/Method`).

    Attributes:
        inline: run by a transport that polls, once it has handed over everything that had arrived; None if there is none.
    """

    unary: Mapping[str, UnaryHandler]
    stream: Mapping[str, StreamHandler]
    inline: InlineWork | None = None


class Transport(Protocol):
    """A gRPC server in threads of its own."""

    @property
    def port(self) -> int:
        """The port bound, known from construction on."""
        ...

    def start(self) -> None:
        """Begins to answer."""
        ...

    def stop(self, grace_s: float) -> None:
        """Takes no new calls, lets those in flight end for `grace_s`, cancels the rest; returns once all is done."""
        ...


#: Answers of one stream that may be outstanding before its next message is read.
STREAM_WINDOW = 64
