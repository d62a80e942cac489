"""How an RPC is answered: parse the message, call a function, and turn whatever it raises into the right status."""

import logging
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from turnout_server.core.errors import InvalidRequest, ServingError, internal_error, status_of
from turnout_server.models.control import OnSettled
from turnout_server.transport.base import Call, Status, UnaryHandler

logger = logging.getLogger(__name__)

#: Longer texts make gRPC drop the status itself: metadata has a hard limit of 16 KiB.
MAX_DETAILS_BYTES = 1024


def answering(request_class: Any, function: Callable[[Any], Message]) -> UnaryHandler:
    """The handler of an RPC that is answered on the spot, by `function` of its request."""

    def handle(call: Call, message: bytes) -> None:
        try:
            response = function(_parsed(request_class, message))
        except ServingError as error:
            call.finish(status(error))
        except Exception:
            call.finish(status(unexpected()))
        else:
            _reply(call, response)

    return handle


def settling(request_class: Any, function: Callable[[Any, OnSettled], None], response: Message) -> UnaryHandler:
    """The handler of an RPC that is answered later, with `response`, once `function` says that it went well."""

    def handle(call: Call, message: bytes) -> None:
        def settled(error: ServingError | None) -> None:
            if error is None:
                _reply(call, response)
            else:
                call.finish(status(error))

        try:
            function(_parsed(request_class, message), settled)
        except ServingError as error:
            settled(error)
        except Exception:
            settled(unexpected())

    return handle


def status(error: ServingError, request_id: str = "") -> Status:
    """The gRPC status of an error, its text capped and free of control characters."""
    text = f"[request id: {request_id}] {error}" if request_id else str(error)
    pushback_ms = getattr(error, "pushback_ms", None)
    trailing = () if pushback_ms is None else (("grpc-retry-pushback-ms", str(pushback_ms)),)
    return Status(grpc.StatusCode[status_of(error)], printable(text), trailing)


def unexpected() -> ServingError:
    """What the caller gets to see of the exception being handled; the log has it in full."""
    error = internal_error()
    logger.exception("%s", error)
    return error


def printable(text: str) -> str:
    """`text` with control characters escaped and at most MAX_DETAILS_BYTES of UTF-8."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_DETAILS_BYTES])
    return escaped.encode(errors="replace")[:MAX_DETAILS_BYTES].decode(errors="ignore")


def _parsed(request_class: Any, message: bytes) -> Any:
    try:
        return request_class.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"the message is not a valid {request_class.DESCRIPTOR.name}") from None


def _reply(call: Call, response: Message) -> None:
    call.send(response.SerializeToString())
    call.finish()
