"""What a call's metadata and deadline add to its request."""

from collections.abc import Callable
from typing import cast

import grpc
import pytest
from turnout_server.core.errors import ServingError
from turnout_server.core.messages import Done, InferRequest
from turnout_server.rpc.inference import InferenceService
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.inline import InlineRunner
from turnout_server.wire.codec import Codec

from tests.server.fakes import FakeCall
from tests.wire import Parameter, request


class RecordingDataPlane:
    """Keeps the requests that it gets."""

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
    """The requests that reach the data plane, each with its call's metadata and its own parameters."""
    dataplane = RecordingDataPlane()
    service = InferenceService(cast(DataPlane, dataplane), Codec(None), InlineRunner({}))
    for call, parameters in calls:
        service.model_infer(call, request("m", {}, id="7", parameters=parameters).SerializeToString())
    return dataplane.requests


@pytest.mark.parametrize("key", ["device", "objective"])
def test_metadata_counts_where_the_parameter_is_absent(key: str) -> None:
    said, other = ("cuda", "cpu") if key == "device" else ("energy", "cost")
    by_metadata, by_both, by_none = infer((FakeCall({key: said}), {}), (FakeCall({key: said}), {key: other}), (FakeCall(), {}))
    assert [getattr(each, key) for each in (by_metadata, by_both, by_none)] == [said, other, ""]


def test_an_objective_that_does_not_exist_is_refused_in_metadata_too() -> None:
    call = FakeCall({"objective": "speed"})
    assert infer((call, {})) == []
    (status,) = call.ended
    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.details == "[request id: 7] unknown objective 'speed'; there are: latency, cost, energy"


def test_what_cannot_be_decoded_is_passed_on_to_be_counted() -> None:
    dataplane = RecordingDataPlane()
    service = InferenceService(cast(DataPlane, dataplane), Codec(None), InlineRunner({}))
    for message in (request("m", {}, parameters={"objective": "speed"}).SerializeToString(), b"\xff"):
        service.model_infer(FakeCall(), message)
    assert [model for model, _ in dataplane.rejections] == ["m", ""]


@pytest.mark.parametrize("runs_inline", [True, False])
def test_only_a_thread_that_runs_inline_work_is_given_any(runs_inline: bool) -> None:
    dataplane, inline, call = RecordingDataPlane(), InlineRunner({}), FakeCall()
    call.runs_inline = runs_inline
    InferenceService(cast(DataPlane, dataplane), Codec(None), inline).model_infer(call, request("m", {}).SerializeToString())
    assert dataplane.inline == [inline if runs_inline else None]
