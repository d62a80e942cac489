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
