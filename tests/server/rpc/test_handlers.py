import logging

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server.core.errors import InvalidRequest, NotFound, Overloaded, Unavailable
from turnout_server.rpc.handlers import MAX_DETAILS_BYTES, answering, printable, status
from turnout_server.transport.base import OK, Status

from tests.server.fakes import FakeCall


def live(request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
    return pb.ServerLiveResponse(live=True)


def test_a_functions_result_is_sent_and_the_call_ends_with_ok() -> None:
    call = FakeCall()
    answering(pb.ServerLiveRequest, live)(call, b"")
    assert ([pb.ServerLiveResponse.FromString(m).live for m in call.sent], call.ended) == ([True], [OK])


def test_an_invalid_message_is_refused_with_the_name_of_its_type() -> None:
    call = FakeCall()
    answering(pb.ModelReadyRequest, live)(call, b"\xff")
    assert call.ended == [
        Status(grpc.StatusCode.INVALID_ARGUMENT, "the message is not a valid ModelReadyRequest"),
    ]
    assert not call.sent


def test_an_unexpected_exception_is_logged_and_hidden_from_the_client(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        raise RuntimeError("/secret/path")

    call = FakeCall()
    with caplog.at_level(logging.ERROR):
        answering(pb.ServerLiveRequest, broken)(call, b"")
    (ended,) = call.ended
    assert ended.code is grpc.StatusCode.INTERNAL
    assert "secret" not in ended.details
    assert "/secret/path" in caplog.text
    assert ended.details.rsplit(" ", 1)[1] in caplog.text


@given(st.text(), st.text())
def test_any_text_becomes_valid_status_details(text: str, request_id: str) -> None:
    details = status(NotFound(text), request_id).details
    assert details.isprintable()
    assert len(details.encode()) <= MAX_DETAILS_BYTES


@given(st.text(alphabet=st.characters(categories=["L", "N", "P"]), max_size=100))
def test_printable_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


def test_the_text_is_truncated_after_escaping() -> None:
    assert len(printable("\n" * 10_000)) == MAX_DETAILS_BYTES
    assert len(printable("ä" * 10_000).encode()) <= MAX_DETAILS_BYTES


def test_the_request_id_precedes_the_text() -> None:
    assert status(InvalidRequest("no"), "7").details == "[request id: 7] no"
    assert status(InvalidRequest("no")).details == "no"


def test_the_pushback_is_sent_in_the_trailing_metadata() -> None:
    assert status(Overloaded("full")).trailing_metadata == (("grpc-retry-pushback-ms", "-1"),)
    assert status(Unavailable("later", 500)).trailing_metadata == (("grpc-retry-pushback-ms", "500"),)
    assert status(Unavailable("later")).trailing_metadata == ()
