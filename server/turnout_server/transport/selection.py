"""Selects the transport: the completion queue if it passes a check, else the slower one on public interfaces."""

import logging
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Literal, Protocol

import grpc

from turnout_server.core.errors import FailedPrecondition
from turnout_server.transport.aio import AioTransport
from turnout_server.transport.base import OK, Call, Handlers, Transport
from turnout_server.transport.limits import NO_LIMITS, Limits

logger = logging.getLogger(__name__)

Name = Literal["auto", "completion-queue", "aio"]


class Make(Protocol):
    """Makes a transport: a class of this folder."""

    def __call__(
        self,
        address: str,
        handlers: Handlers,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ServerCredentials | None = None,
        limits: Limits = NO_LIMITS,
    ) -> Transport: ...


CHECK_TIMEOUT_S = 5.0


def choose(name: Name) -> Make:
    """The transport of that name; `auto` takes the completion queue if it passes its check.

    Raises:
        FailedPrecondition: `completion-queue` was asked for and doesn't work here.
    """
    if name == "aio":
        return AioTransport
    try:
        from turnout_server.transport.completion_queue import CompletionQueueTransport  # noqa: PLC0415 - the import may fail

        check(CompletionQueueTransport)
    except Exception as error:
        why = f"the completion-queue transport doesn't work with grpcio {grpc.__version__}: {_reason(error)}"
        if name == "completion-queue":
            raise FailedPrecondition(f"{why}; use --transport=aio") from error
        logger.warning("%s; using grpc.aio, which costs about five times the CPU for each small request", why)
        return AioTransport
    return CompletionQueueTransport


def check(make: Make) -> None:
    """Runs a unary call and a stream over a real socket, and stops the server; raises if anything goes wrong."""
    handlers = Handlers(unary={"/check/Unary": _echo}, stream={"/check/Stream": _Echoes})
    transport = make("127.0.0.1:0", handlers, [("grpc.so_reuseport", 0)], None)
    transport.start()
    try:
        channel: Any
        options = [("grpc.enable_http_proxy", 0)]  # a proxy in the environment isn't meant for this
        with closing(grpc.insecure_channel(f"127.0.0.1:{transport.port}", options)) as channel:
            answer = channel.unary_unary("/check/Unary")(b"unary", timeout=CHECK_TIMEOUT_S)
            answers = list(channel.stream_stream("/check/Stream")(iter([b"a", b"b"]), timeout=CHECK_TIMEOUT_S))
    finally:
        transport.stop(0)
    if (answer, answers) != (b"unary", [b"a", b"b"]):
        raise RuntimeError(f"it answered {answer!r} and {answers!r}")


def _reason(error: Exception) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else repr(error)


def _echo(call: Call, message: bytes) -> None:
    call.send(message)
    call.finish(OK)


class _Echoes:
    def __init__(self, call: Call) -> None:
        self._call = call

    def message(self, data: bytes) -> None:
        self._call.send(data)

    def half_closed(self) -> None:
        self._call.finish()
