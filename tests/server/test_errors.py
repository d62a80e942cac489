import grpc
import pytest
from turnout_server.errors import STATUS, InternalError, ServingError, internal_error, status_of

EXPECTED = {
    "InvalidRequest": "INVALID_ARGUMENT",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "FailedPrecondition": "FAILED_PRECONDITION",
    "Unavailable": "UNAVAILABLE",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Cancelled": "CANCELLED",
    "Unsupported": "UNIMPLEMENTED",
    "InternalError": "INTERNAL",
}


@pytest.mark.parametrize("kind", ServingError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[ServingError]) -> None:
    error = kind("what went wrong")
    assert status_of(error) == EXPECTED[kind.__name__]
    assert status_of(error) in grpc.StatusCode.__members__
    assert str(error) == "what went wrong"


def test_the_table_lists_every_error_and_no_other() -> None:
    assert set(STATUS) == set(ServingError.__subclasses__())


def test_an_error_that_nobody_listed_is_internal_and_never_unknown() -> None:
    assert status_of(ServingError("?")) == "INTERNAL"


def test_internal_errors_tell_their_callers_only_an_id() -> None:
    one, other = internal_error(), internal_error()
    assert isinstance(one, InternalError)
    assert str(one) != str(other)
    assert str(one)[:-8] == str(other)[:-8]
