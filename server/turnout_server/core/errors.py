"""The errors of requests, classified by what the caller can do about them.

The class tells what the caller can do; the message names the offending value and the fix. STATUS maps each class to its gRPC
status.
"""

import secrets
import sys


class ServingError(Exception):
    """The root of all errors that callers may see. Its text is sent to the client unchanged."""


class InvalidRequest(ServingError):
    """The request itself is wrong and must be changed before it is sent again."""


class NotFound(ServingError):
    """There is no such model, version or shared-memory region."""


class AlreadyExists(ServingError):
    """The name is in use."""


class FailedPrecondition(ServingError):
    """A valid request that this server can't serve: it lacks the device, or the model is broken. Retrying here doesn't help."""


class Unavailable(ServingError):
    """Temporarily not available: the model, the device or the server is loading, draining or restarting.

    Attributes:
        pushback_ms: how long the client should wait before it retries; None leaves that to the client.
    """

    def __init__(self, message: str, pushback_ms: int | None = None) -> None:
        super().__init__(message)
        self.pushback_ms = pushback_ms


class DeviceLost(Unavailable):
    """The device's process ended during the request. A request that doesn't insist on this device may run on another.

    Attributes:
        ran: whether the request was running there. It isn't run again in the server's own process.
        suspect: whether it may have been the cause, because the process crashed or hung. It isn't run again at all.
    """

    def __init__(self, message: str, pushback_ms: int | None = 1000, *, ran: bool = False, suspect: bool = False) -> None:
        super().__init__(message, pushback_ms)
        self.ran = ran
        self.suspect = suspect


class Overloaded(ServingError):
    """Refused to protect the requests already accepted. Clients must not retry at once: that would amplify the overload."""

    pushback_ms = -1


class DeadlineExceeded(ServingError):
    """The client's deadline or `timeout` passed before the run started."""


class Cancelled(ServingError):
    """The client cancelled the request before its run started."""


class Unauthenticated(ServingError):
    """The client sent no token, or one that this server doesn't know."""


class PermissionDenied(ServingError):
    """The client's token lacks the role that the call needs."""


class Unsupported(ServingError):
    """This server doesn't offer the feature, or a flag disables it; the text then names the flag."""


class InternalError(ServingError):
    """A bug in the server or the runtime. The text is constant but for an opaque id; the log has the details under that id.

    Attributes:
        cause: the first line of what went wrong, for the operator; never sent to clients of ModelInfer.
    """

    cause: str = ""


#: The name of each error's gRPC status. An error that isn't listed is a bug in the server: it becomes INTERNAL, never UNKNOWN.
STATUS = {
    InvalidRequest: "INVALID_ARGUMENT",
    NotFound: "NOT_FOUND",
    AlreadyExists: "ALREADY_EXISTS",
    FailedPrecondition: "FAILED_PRECONDITION",
    Unavailable: "UNAVAILABLE",
    DeviceLost: "UNAVAILABLE",
    Overloaded: "RESOURCE_EXHAUSTED",
    DeadlineExceeded: "DEADLINE_EXCEEDED",
    Cancelled: "CANCELLED",
    Unauthenticated: "UNAUTHENTICATED",
    PermissionDenied: "PERMISSION_DENIED",
    Unsupported: "UNIMPLEMENTED",
    InternalError: "INTERNAL",
}


def status_of(error: ServingError) -> str:
    """The name of an error's gRPC status."""
    return STATUS.get(type(error), "INTERNAL")


def unexpected_error() -> ServingError:
    """What clients see of the exception being handled, which nobody expected. Log that together with this error's text."""
    lacks_memory = isinstance(sys.exception(), MemoryError)
    return Overloaded("the server does not have the memory for this request") if lacks_memory else internal_error()


def internal_error() -> InternalError:
    """An error that shows the client nothing but an id. Log the cause together with this error's text, which has the id."""
    return InternalError(f"internal error; the server's log has the cause under id {secrets.token_hex(4)}")
