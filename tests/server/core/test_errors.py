import grpc
import pytest
from turnout_server.core.errors import STATUS, InternalError, ServingError, internal_error, status_of

EXPECTED = {
    "InvalidRequest": "INVALID_ARGUMENT",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "FailedPrecondition": "FAILED_PRECONDITION",
    "Unavailable": "UNAVAILABLE",
    "DeviceLost": "UNAVAILABLE",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Cancelled": "CANCELLED",
    "Unauthenticated": "UNAUTHENTICATED",
    "PermissionDenied": "PERMISSION_DENIED",
    "Unsupported": "UNIMPLEMENTED",
    "InternalError": "INTERNAL",
}


def subclasses_of(kind: type[ServingError]) -> list[type[ServingError]]:
    """All direct and indirect subclasses of `kind`."""
    return [each for direct in kind.__subclasses__() for each in (direct, *subclasses_of(direct))]


@pytest.mark.parametrize("kind", subclasses_of(ServingError), ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[ServingError]) -> None:
    error = kind("what went wrong")
    assert status_of(error) == EXPECTED[kind.__name__]
    assert status_of(error) in grpc.StatusCode.__members__
    assert str(error) == "what went wrong"


def test_the_table_lists_every_error_and_no_other() -> None:
    assert set(STATUS) == set(subclasses_of(ServingError))


def test_an_unlisted_error_is_internal_and_never_unknown() -> None:
    assert status_of(ServingError("?")) == "INTERNAL"


def test_internal_errors_show_clients_only_an_id() -> None:
    one, other = internal_error(), internal_error()
    assert isinstance(one, InternalError)
    assert str(one) != str(other)
    assert str(one)[:-8] == str(other)[:-8]
