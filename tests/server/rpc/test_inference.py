"""Tests how a call becomes a request for the data plane."""

import threading
from collections.abc import Callable
from typing import Any, cast

import grpc
import numpy as np
import pytest
from turnout_server.core.errors import Overloaded, ServingError, internal_error
from turnout_server.core.messages import Done, InferRequest
from turnout_server.rpc.inference import InferenceService
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.inline import InlineRunner
from turnout_server.wire.codec import Codec

from tests.server.fakes import FakeCall
from tests.wire import Parameter, request


class RecordingDataPlane:
    """Records the requests that it receives."""

    def __init__(self) -> None:
        self.requests: list[InferRequest] = []
        self.inline: list[InlineRunner | None] = []
        self.rejections: list[tuple[str, str]] = []

    def infer(self, request: InferRequest, done: Done, inline: InlineRunner | None) -> Callable[[], None]:
        self.requests.append(request)
        self.inline.append(inline)
        return lambda: None

    def rejected(self, model: str, version: str, error: ServingError, arrived_s: float) -> None:
        self.rejections.append((model, str(error)))


def infer(*calls: tuple[FakeCall, dict[str, Parameter]]) -> list[InferRequest]:
    """The requests that the data plane receives from these calls and parameters."""
    dataplane = RecordingDataPlane()
    service = InferenceService(cast(DataPlane, dataplane), Codec(None), InlineRunner({}))
    for call, parameters in calls:
        service.model_infer(call, request("m", {}, id="7", parameters=parameters).SerializeToString())
    return dataplane.requests


@pytest.mark.parametrize("key", ["device", "objective"])
def test_metadata_applies_if_the_parameter_is_absent(key: str) -> None:
    value, other = ("cuda", "cpu") if key == "device" else ("energy", "cost")
    by_metadata, by_both, by_none = infer(
        (FakeCall({key: value}), {}), (FakeCall({key: value}), {key: other}), (FakeCall(), {})
    )
    assert [getattr(each, key) for each in (by_metadata, by_both, by_none)] == [value, other, ""]


def test_an_unknown_objective_in_the_metadata_is_refused() -> None:
    call = FakeCall({"objective": "speed"})
    assert infer((call, {})) == []
    (status,) = call.ended
    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.details == "[request id: 7] unknown objective 'speed'; there are: latency, cost, energy"


def test_requests_that_cannot_be_decoded_are_counted_by_the_data_plane() -> None:
    dataplane = RecordingDataPlane()
    service = InferenceService(cast(DataPlane, dataplane), Codec(None), InlineRunner({}))
    for message in (request("m", {}, parameters={"objective": "speed"}).SerializeToString(), b"\xff"):
        service.model_infer(FakeCall(), message)
    assert [model for model, _ in dataplane.rejections] == ["m", ""]


def test_the_log_says_which_request_got_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(RecordingDataPlane):
        def infer(self, request: InferRequest, done: Done, inline: InlineRunner | None) -> Callable[[], None]:
            done(internal_error() if request.model == "m" else Overloaded("the queue is full"))
            return lambda: None

    service = InferenceService(cast(DataPlane, Failing()), Codec(None), InlineRunner({}))
    for model in ("m", "busy"):
        service.model_infer(FakeCall(), request(model, {}, id="r7").SerializeToString())
    (record,) = caplog.records
    assert (vars(record)["request_id"], vars(record)["model"]) == ("r7", "m")


@pytest.mark.parametrize("runs_inline", [True, False])
def test_only_calls_that_run_inline_get_the_inline_runner(runs_inline: bool) -> None:
    dataplane, inline, call = RecordingDataPlane(), InlineRunner({}), FakeCall()
    call.runs_inline = runs_inline
    InferenceService(cast(DataPlane, dataplane), Codec(None), inline).model_infer(call, request("m", {}).SerializeToString())
    assert dataplane.inline == [inline if runs_inline else None]


def test_a_large_message_is_decoded_in_another_thread() -> None:
    threads: list[int] = []
    received = threading.Event()

    class Codecs(Codec):
        def decode(self, *arguments: Any) -> Any:
            threads.append(threading.get_ident())
            return super().decode(*arguments)

    class Waiting(RecordingDataPlane):
        def infer(self, request: InferRequest, done: Done, inline: InlineRunner | None) -> Callable[[], None]:
            cancel = super().infer(request, done, inline)
            if len(self.requests) == 2:
                received.set()
            return cancel

    dataplane, inline = Waiting(), InlineRunner({})
    service = InferenceService(cast(DataPlane, dataplane), Codecs(None), inline)
    for size in (1, 100_000):
        call = FakeCall()
        call.runs_inline = True
        service.model_infer(call, request("m", {"x": np.zeros(size, np.float32)}).SerializeToString())
    assert received.wait(10)
    assert [thread == threading.get_ident() for thread in threads] == [True, False]
    assert dataplane.inline == [inline, None]  # only the transport's thread runs inline jobs
