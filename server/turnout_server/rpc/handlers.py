"""Handlers of RPCs: parse the message, call a function, and convert its exceptions to statuses."""

import logging
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from turnout_server.core.errors import InvalidRequest, ServingError, status_of, unexpected_error
from turnout_server.models.control import OnSettled
from turnout_server.transport.base import Call, Status, UnaryHandler

logger = logging.getLogger(__name__)

#: With much longer details gRPC would drop the whole status: metadata has a hard limit of 16 KiB.
MAX_DETAILS_BYTES = 1024
#: Only inference requests are larger; the longest others have a model's configuration. So parsing takes milliseconds.
MAX_MESSAGE_BYTES = 256 * 1024


def answering(request_class: Any, function: Callable[[Any], Message]) -> UnaryHandler:
    """The handler of an RPC that is answered at once with the result of `function`."""

    def handle(call: Call, message: bytes) -> None:
        try:
            response = function(parsed(request_class, message))
        except ServingError as error:
            call.finish(status(error))
        except Exception:
            call.finish(status(unexpected()))
        else:
            _reply(call, response)

    return handle


def settling(request_class: Any, function: Callable[[Any, OnSettled], None], response: Message) -> UnaryHandler:
    """The handler of an RPC that is answered with `response` later, when `function` reports that it succeeded."""

    def handle(call: Call, message: bytes) -> None:
        def settled(error: ServingError | None) -> None:
            if error is None:
                _reply(call, response)
            else:
                call.finish(status(error))

        try:
            function(parsed(request_class, message), settled)
        except ServingError as error:
            settled(error)
        except Exception:
            settled(unexpected())

    return handle


def status(error: ServingError, request_id: str = "") -> Status:
    """The gRPC status of an error; its text is truncated, and control characters are escaped."""
    text = f"[request id: {request_id}] {error}" if request_id else str(error)
    pushback_ms = getattr(error, "pushback_ms", None)
    trailing = () if pushback_ms is None else (("grpc-retry-pushback-ms", str(pushback_ms)),)
    return Status(grpc.StatusCode[status_of(error)], printable(text), trailing)


def unexpected(request_id: str = "") -> ServingError:
    """The error that clients see instead of the exception being handled. Logs that exception."""
    shown = unexpected_error()
    logger.exception("%s", shown, extra={"request_id": request_id})
    return shown


def printable(text: str) -> str:
    """`text` with control characters escaped, truncated to MAX_DETAILS_BYTES of UTF-8."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_DETAILS_BYTES])
    return escaped.encode(errors="replace")[:MAX_DETAILS_BYTES].decode(errors="ignore")


def parsed(request_class: Any, message: bytes) -> Any:
    """The message as an object of its class.

    Raises:
        InvalidRequest: it isn't a message of that class, or it is too large.
    """
    name = request_class.DESCRIPTOR.name
    if len(message) > MAX_MESSAGE_BYTES:
        raise InvalidRequest(f"a {name} may have {MAX_MESSAGE_BYTES} bytes, this one has {len(message)}")
    try:
        return request_class.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"the message is not a valid {name}") from None


def _reply(call: Call, response: Message) -> None:
    call.send(response.SerializeToString())
    call.finish()
