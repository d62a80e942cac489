"""Tests of ModelStreamInfer: it has the features of unary calls, and keeps the order."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests.integration.test_infer import SHAPES, sample
from tests.servers import RunningServer
from tests.wire import CONTENTS, DTYPES, arrays, assert_same, parameters, refused, request

SOON_S = 30


def stream(
    server: RunningServer, requests: Sequence[pb.ModelInferRequest], **options: object
) -> list[pb.ModelStreamInferResponse]:
    return list(server.stub.ModelStreamInfer(iter(requests), timeout=SOON_S, **options))


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_every_datatype_and_shape_is_bit_exact_in_one_stream(server: RunningServer, typed: bool) -> None:
    datatypes = CONTENTS if typed else DTYPES
    cases = [(f"{name.lower()}_{sort}", sample(name, shape)) for name in datatypes for sort, shape in SHAPES]
    answers = stream(server, [request(model, {"INPUT": array}, typed=typed) for model, array in cases])
    for (model, array), answer in zip(cases, answers, strict=True):
        assert (answer.infer_response.model_name, answer.error_message) == (model, "")
        assert_same(arrays(answer.infer_response)["OUTPUT"], array)


def test_more_requests_than_the_window_are_answered_in_order(server: RunningServer) -> None:
    row = np.zeros((1, 1), np.float32)
    requests = [request("versions", {"x": row + number}, id=str(number)) for number in range(500)]
    answers = stream(server, requests)
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(500)]
    assert [arrays(answer.infer_response)["y"].item() for answer in answers] == [number + 2 for number in range(500)]


def test_each_request_of_a_stream_may_name_its_device(server: RunningServer) -> None:
    row = np.zeros((1, 1), np.float32)
    devices = ["cpu", "cuda:99", "cuda,cpu", "tpu"]
    answers = stream(server, [request("versions", {"x": row}, parameters={"device": device}) for device in devices])
    assert [bool(answer.error_message) for answer in answers] == [False, True, False, True]
    assert answers[2].infer_response.parameters["route_reason"].string_param == "preference"
    assert "device 'cuda:99' is not available" in answers[1].error_message


def test_the_streams_metadata_names_the_device_for_requests_that_name_none(server: RunningServer) -> None:
    row = np.zeros((1, 1), np.float32)
    requests = [request("versions", {"x": row}), request("versions", {"x": row}, parameters={"device": "cpu"})]
    answers = stream(server, requests, metadata=[("device", "tpu")])
    assert "unknown device 'tpu'" in answers[0].error_message
    assert parameters(answers[1].infer_response)["device"] == "cpu"


@pytest.mark.parametrize("message", [b"\xff\xff\xff\xff", b""], ids=["not protobuf", "empty"])
def test_an_invalid_message_is_an_error_within_the_stream(server: RunningServer, message: bytes) -> None:
    path = "/inference.GRPCInferenceService/ModelStreamInfer"
    good = request("versions", {"x": np.zeros((1, 1), np.float32)}).SerializeToString()
    answers = list(server.channel.stream_stream(path)(iter([message, good]), timeout=SOON_S))  # type: ignore[call-arg]
    first, second = map(pb.ModelStreamInferResponse.FromString, answers)
    assert first.error_message
    assert not second.error_message


def test_an_error_ends_the_stream_if_the_client_asks_for_that(server: RunningServer) -> None:
    with refused("NOT_FOUND", "[request id: 7] Request for unknown model: 'nowhere' is not found"):
        stream(server, [request("nowhere", {}, id="7")], metadata=[("triton_grpc_error", "true")])


def test_cancelled_streams_do_not_affect_later_requests(server: RunningServer) -> None:
    def endless() -> Iterator[pb.ModelInferRequest]:
        while True:
            yield request("versions", {"x": np.zeros((1, 1), np.float32)})

    for _ in range(5):
        call = server.stub.ModelStreamInfer(endless(), timeout=SOON_S)
        for _ in range(100):
            next(call)
        call.cancel()
    answer = server.stub.ModelInfer(request("versions", {"x": np.zeros((1, 1), np.float32)}), timeout=SOON_S)
    assert arrays(answer)["y"].item() == 2


def test_an_empty_stream_ends_with_ok(server: RunningServer) -> None:
    assert stream(server, []) == []
