"""What can go wrong with a request, by what its caller can do about it.

The classes say that; the message names the value that was wrong and the fix. The table at the end says which gRPC status
each one becomes.
"""

import secrets


class ServingError(Exception):
    """The root of every error that a caller is meant to see. Its text goes to the client as it is."""


class InvalidRequest(ServingError):
    """The request itself is wrong: change it before sending it again."""


class NotFound(ServingError):
    """No such model, version or region."""


class AlreadyExists(ServingError):
    """The name is taken."""


class FailedPrecondition(ServingError):
    """Right request, wrong server: the device isn't on this host, or the model is broken. Retrying here won't help."""


class Unavailable(ServingError):
    """Not now: loading, draining or restarting.

    Attributes:
        pushback_ms: when to try again, in milliseconds; None leaves it to the client.
    """

    def __init__(self, message: str, pushback_ms: int | None = None) -> None:
        super().__init__(message)
        self.pushback_ms = pushback_ms


class DeviceLost(Unavailable):
    """The device's process ended with the request in it. Whoever didn't insist on that device may be served elsewhere."""

    def __init__(self, message: str, pushback_ms: int | None = 1000) -> None:
        super().__init__(message, pushback_ms)


class Overloaded(ServingError):
    """Refused to protect the requests already taken. Never to be retried at once: that would amplify the overload."""

    pushback_ms = -1


class DeadlineExceeded(ServingError):
    """The caller's deadline or `timeout` passed before the work began."""


class Cancelled(ServingError):
    """The caller went away before the work began."""


class Unsupported(ServingError):
    """Not offered by this server, or switched off; the text says by which flag."""


class InternalError(ServingError):
    """Our fault or the runtime's. The text is a constant and an opaque id; the log has the rest under that id."""


#: The gRPC status of each error, by name. Never UNKNOWN: what isn't listed here is a bug of ours and becomes INTERNAL.
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
    Unsupported: "UNIMPLEMENTED",
    InternalError: "INTERNAL",
}


def status_of(error: ServingError) -> str:
    """The name of the gRPC status that `error` becomes."""
    return STATUS.get(type(error), "INTERNAL")


def internal_error() -> InternalError:
    """An error that tells its caller nothing but an id; log the cause beside that id, it is the exception's text."""
    return InternalError(f"internal error; the server's log has the cause under id {secrets.token_hex(4)}")
