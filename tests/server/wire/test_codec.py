"""What a request's own parameters become."""

import pytest
from turnout_proto import inference_pb2 as pb
from turnout_server.core.errors import InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.wire import codec
from turnout_server.wire.codec import Codec

from tests.wire import Parameter, request


def decoded(**parameters: Parameter) -> InferRequest:
    return Codec(None).decode(request("m", {}, parameters=parameters).SerializeToString())[0]


def test_a_request_without_parameters_leaves_everything_open() -> None:
    plain = decoded()
    assert (plain.device, plain.objective, plain.precision, plain.priority, plain.timeout_us) == ("", "", "", 0, None)


def test_parameters_are_read() -> None:
    wish = decoded(device="cuda,cpu", objective="energy", precision="fp16", priority=3, timeout=20_000)
    assert (wish.device, wish.objective, wish.precision) == ("cuda,cpu", "energy", "fp16")
    assert (wish.priority, wish.timeout_us) == (3, 20_000)


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_a_priority_comes_in_either_kind_of_whole_number(kind: str) -> None:
    message = request("m", {})
    setattr(message.parameters["priority"], kind, 1)
    assert Codec(None).decode(message.SerializeToString())[0].priority == 1


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("objective", "speed", "unknown objective 'speed'; there are: latency, cost, energy"),
        ("objective", "Latency", "unknown objective 'Latency'; there are: latency, cost, energy"),
        ("objective", "", "the 'objective' parameter is empty; leave it out or give it a value"),
        ("objective", 1, "invalid value type for 'objective' parameter, expected string_param."),
        ("precision", 16, "invalid value type for 'precision' parameter, expected string_param."),
        ("precision", "", "the 'precision' parameter is empty; leave it out or give it a value"),
        ("priority", "high", "invalid value type for 'priority' parameter, expected int64_param."),
        ("priority", -1, "the 'priority' parameter must not be negative, got -1"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_and_value(key: str, value: Parameter, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded(**{key: value})
    assert str(caught.value) == text


def test_a_refused_parameter_is_refused_again() -> None:
    one = Codec(None)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="unknown objective"):
            one.decode(request("m", {}, parameters={"objective": "speed"}).SerializeToString())


@pytest.mark.parametrize(
    ("message", "request_id"),
    [(request("", {}, id="7").SerializeToString(), "7"), (b"\xff", ""), (pb.ModelInferRequest().SerializeToString(), "")],
)
def test_the_id_of_a_broken_request_is_found_where_it_has_one(message: bytes, request_id: str) -> None:
    assert codec.id_of(message) == request_id
