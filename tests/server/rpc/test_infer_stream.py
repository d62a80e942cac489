"""Tests that a stream's answers have the order of its requests, whatever order they are computed in."""

import threading
from collections.abc import Callable, Mapping

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server.core.errors import NotFound
from turnout_server.rpc.handlers import status
from turnout_server.rpc.infer_stream import ERROR_HEADER, Answer, InferStream
from turnout_server.transport.base import OK, Call, Status


class StreamCall:
    """A call that records its messages and its status."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.metadata = metadata
        self.deadline_s: float | None = None
        self.runs_inline = False
        self.sent: list[bytes] = []
        self.status: Status | None = None
        self.cancel: Callable[[], None] = lambda: None

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self.cancel = callback

    def send(self, message: bytes) -> None:
        if self.status is None:
            self.sent.append(message)

    def finish(self, status: Status = OK) -> None:
        self.status = self.status or status

    @property
    def code(self) -> grpc.StatusCode | None:
        return self.status.code if self.status else None

    @property
    def details(self) -> str:
        return self.status.details if self.status else ""


class Stream:
    """A stream whose requests the test answers; a request's bytes are its id."""

    def __init__(self, **metadata: str) -> None:
        self.call = StreamCall(metadata)
        self.cancelled: list[str] = []
        self._answers: dict[str, Answer] = {}
        self.receiver = InferStream(self.call, self._infer, status)

    def _infer(self, _: Call, message: bytes, answer: Answer) -> Callable[[], None]:
        request_id = message.decode()
        self._answers[request_id] = answer
        return lambda: self.cancelled.append(request_id)

    def ask(self, *ids: str) -> None:
        for request_id in ids:
            self.receiver.message(request_id.encode())

    def answer(self, *ids: str) -> None:
        for request_id in ids:
            self._answers[request_id](request_id, pb.ModelInferResponse(id=request_id).SerializeToString())

    def fail(self, request_id: str) -> None:
        self._answers[request_id](request_id, NotFound("gone"))

    @property
    def sent(self) -> list[pb.ModelStreamInferResponse]:
        return [pb.ModelStreamInferResponse.FromString(message) for message in self.call.sent]

    @property
    def ids(self) -> list[str]:
        return [answer.infer_response.id for answer in self.sent]


@given(st.permutations("abcdef"))
def test_answers_are_sent_in_the_order_of_their_requests(order: list[str]) -> None:
    stream = Stream()
    stream.ask(*"abcdef")
    for number, request_id in enumerate(order):
        stream.answer(request_id)
        answered = set(order[: number + 1])
        ready = next((n for n, asked in enumerate("abcdef") if asked not in answered), 6)
        assert "".join(stream.ids) == "abcdef"[:ready]


def test_the_stream_ends_after_the_last_answer() -> None:
    stream = Stream()
    stream.ask("a")
    stream.receiver.half_closed()
    assert stream.call.status is None
    stream.answer("a")
    assert stream.call.code is grpc.StatusCode.OK


def test_an_empty_stream_ends_at_once() -> None:
    stream = Stream()
    stream.receiver.half_closed()
    assert stream.call.code is grpc.StatusCode.OK


def test_every_answer_is_marked_as_final() -> None:
    stream = Stream()
    stream.ask("a", "b")
    stream.answer("a")
    stream.fail("b")
    assert [answer.infer_response.parameters["triton_final_response"].bool_param for answer in stream.sent] == [True, True]


def test_an_error_is_a_message_with_the_request_id_and_the_stream_continues() -> None:
    stream = Stream()
    stream.ask("a", "b")
    stream.fail("a")
    stream.answer("b")
    assert [answer.error_message for answer in stream.sent] == ["[request id: a] gone", ""]
    assert stream.ids == ["a", "b"]
    assert stream.call.status is None


def test_with_the_header_an_error_ends_the_stream_after_the_earlier_answers() -> None:
    stream = Stream(**{ERROR_HEADER: "true"})
    stream.ask("a", "b", "c")
    stream.fail("b")
    assert stream.call.status is None
    stream.answer("a")
    assert (stream.call.code, stream.call.details) == (grpc.StatusCode.NOT_FOUND, "[request id: b] gone")
    assert stream.ids == ["a"]


@pytest.mark.parametrize("value", ["false", "", "1"])
def test_with_other_values_of_the_header_an_error_does_not_end_the_stream(value: str) -> None:
    stream = Stream(**{ERROR_HEADER: value})
    stream.ask("a")
    stream.fail("a")
    assert stream.call.status is None


def test_cancelling_the_stream_cancels_the_unanswered_requests() -> None:
    stream = Stream()
    stream.ask("a", "b", "c")
    stream.answer("a")
    stream.call.cancel()
    assert stream.cancelled == ["b", "c"]


def test_each_answer_is_sent_once_when_many_threads_answer() -> None:
    stream = Stream()
    ids = [str(number) for number in range(200)]
    stream.ask(*ids)
    threads = [threading.Thread(target=stream.answer, args=ids[start::8]) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.ids == ids
