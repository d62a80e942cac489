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
    "Unsupported": "UNIMPLEMENTED",
    "InternalError": "INTERNAL",
}


def below(kind: type[ServingError]) -> list[type[ServingError]]:
    """Every class that derives from `kind`, at whatever distance."""
    return [each for child in kind.__subclasses__() for each in (child, *below(child))]


@pytest.mark.parametrize("kind", below(ServingError), ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[ServingError]) -> None:
    error = kind("what went wrong")
    assert status_of(error) == EXPECTED[kind.__name__]
    assert status_of(error) in grpc.StatusCode.__members__
    assert str(error) == "what went wrong"


def test_the_table_lists_every_error_and_no_other() -> None:
    assert set(STATUS) == set(below(ServingError))


def test_an_error_that_nobody_listed_is_internal_and_never_unknown() -> None:
    assert status_of(ServingError("?")) == "INTERNAL"


def test_internal_errors_tell_their_callers_only_an_id() -> None:
    one, other = internal_error(), internal_error()
    assert isinstance(one, InternalError)
    assert str(one) != str(other)
    assert str(one)[:-8] == str(other)[:-8]
