"""Tests how parameters and metadata are decoded into the fields of a request."""

from collections.abc import Mapping

import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.errors import InvalidRequest, Overloaded
from turnout_server.core.messages import InferRequest, InferResponse, Provenance
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.wire import codec
from turnout_server.wire.codec import MAX_WARNINGS, Codec
from turnout_server.wire.shared_memory import SharedMemory

from tests.wire import DTYPES, Parameter, assert_same, request


def decode(codec: Codec, message: pb.ModelInferRequest, metadata: Mapping[str, str] | None = None) -> InferRequest:
    return codec.decode(message.SerializeToString(), metadata or {}, None, 0.0)[0]


def decode_parameters(**parameters: Parameter) -> InferRequest:
    return decode(Codec(None), request("m", {}, parameters=parameters))


def test_a_request_without_parameters_has_no_preferences() -> None:
    plain = decode_parameters()
    assert (plain.device, plain.objective, plain.precision, plain.priority, plain.timeout_us) == ("", "", "", 0, None)


def test_parameters_are_read() -> None:
    preferences = decode_parameters(device="cuda,cpu", objective="energy", precision="fp16", priority=3, timeout=20_000)
    assert (preferences.device, preferences.objective, preferences.precision) == ("cuda,cpu", "energy", "fp16")
    assert (preferences.priority, preferences.timeout_us) == (3, 20_000)


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_a_priority_may_be_a_signed_or_an_unsigned_integer(kind: str) -> None:
    message = request("m", {})
    setattr(message.parameters["priority"], kind, 1)
    assert decode(Codec(None), message).priority == 1


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
def test_an_invalid_parameter_is_refused_with_its_name_and_value(key: str, value: Parameter, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_parameters(**{key: value})
    assert str(caught.value) == text


def test_a_refused_parameter_is_refused_again() -> None:
    codec = Codec(None)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="unknown objective"):
            decode(codec, request("m", {}, parameters={"objective": "speed"}))


@pytest.mark.parametrize(
    ("message", "request_id"),
    [(request("", {}, id="7").SerializeToString(), "7"), (b"\xff", ""), (pb.ModelInferRequest().SerializeToString(), "")],
)
def test_the_id_of_an_invalid_request_is_read_if_it_has_one(message: bytes, request_id: str) -> None:
    assert codec.identify(message).id == request_id


@pytest.mark.parametrize(("key", "meant"), [("devise", "device"), ("Timeout", "timeout"), ("objectiv", "objective")])
def test_a_parameter_that_is_nearly_ours_is_warned_of_once(caplog: pytest.LogCaptureFixture, key: str, meant: str) -> None:
    codec = Codec(None)
    for rows in (1, 2):
        decode(codec, request("m", {"x": np.zeros((rows, 2), np.float32)}, parameters={key: "x"}))
    assert [record.getMessage() for record in caplog.records] == [
        f"requests for model 'm' have a parameter '{key}' without effect: is '{meant}' meant?"
    ]


@pytest.mark.parametrize("key", ["device", "temperature", "sequence_id", "binary_data_output"])
def test_other_parameters_are_not_warned_of(caplog: pytest.LogCaptureFixture, key: str) -> None:
    decode(Codec(None), request("m", {}, parameters={key: "cpu"}))
    assert not caplog.records


def test_clients_cannot_fill_the_log_with_misspelled_parameters(caplog: pytest.LogCaptureFixture) -> None:
    codec = Codec(None)
    for number in range(3 * MAX_WARNINGS):
        decode(codec, request("m", {}, parameters={f"objective{number:02}"[:11]: "x", f"precision{number:03}"[:11]: "x"}))
    assert 0 < len(caplog.records) <= MAX_WARNINGS


def test_the_identity_of_a_request_is_read_even_if_it_cannot_be_decoded() -> None:
    message = request("m", {}, id="7", version="3", parameters={"objective": "speed"}).SerializeToString()
    assert codec.identify(message) == ("7", "m", "3")


def test_metadata_applies_where_the_message_has_no_parameter() -> None:
    metadata = {"device": "cpu", "objective": "energy"}
    for parameters, expected in (({}, ("cpu", "energy")), ({"device": "cuda", "objective": "cost"}, ("cuda", "cost"))):
        decoded = decode(Codec(None), request("m", {}, parameters=parameters), metadata)
        assert (decoded.device, decoded.objective) == expected


def test_an_unknown_objective_in_the_metadata_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="unknown objective 'speed'"):
        decode(Codec(None), request("m", {}), {"objective": "speed"})


def texts(*elements: bytes) -> np.ndarray:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"FP16", "BF16"}))
@pytest.mark.parametrize("count", [5, 40_000], ids=["small", "large"])
def test_typed_tensors_of_any_size_are_read(datatype: str, count: int) -> None:
    array = texts(*[b"ab"] * count) if datatype == "BYTES" else np.arange(count).astype(DTYPES[datatype])
    decoded = decode(Codec(None), request("m", {"x": array}, typed=True)).inputs["x"]
    assert_same(decoded, array if datatype != "BYTES" else np.array(["ab"] * count, np.object_))


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "raw"])
def test_texts_that_take_much_more_memory_than_their_message_are_refused(typed: bool) -> None:
    message = request("m", {"x": texts(*[b"ab"] * 200_000)}, typed=typed)
    with pytest.raises(InvalidRequest, match="input 'x' takes too much memory"):
        decode(Codec(None), message)


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "raw"])
def test_long_texts_of_the_same_size_are_read(typed: bool) -> None:
    decoded = decode(Codec(None), request("m", {"x": texts(*["\u6f22".encode() * 100] * 4000)}, typed=typed))
    assert decoded.inputs["x"].tolist() == ["\u6f22" * 100] * 4000


def test_one_emoji_in_a_long_text_counts_as_if_all_characters_were() -> None:
    long = b"x" * (16 << 20) + "\U0001f600".encode()
    with pytest.raises(InvalidRequest, match="too much memory"):
        decode(Codec(None), request("m", {"x": texts(long)}))
    assert decode(Codec(None), request("m", {"x": texts(long[: 16 << 20])})).inputs["x"].size == 1


def test_only_large_messages_that_resemble_no_earlier_one_are_slow() -> None:
    codec = Codec(None)
    small, large = (request("m", {"x": np.zeros(n, np.float32)}).SerializeToString() for n in (10, 10_000))
    assert codec.is_quick(small)
    assert not codec.is_quick(large)
    codec.decode(large, {}, None, 0.0)
    assert codec.is_quick(large)


def test_messages_with_shared_memory_are_slow_because_it_is_read() -> None:
    message = request("m", {"x": np.zeros(1, np.float32)})
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert Codec(None).is_quick(message.SerializeToString())  # it will be refused
    assert not Codec(SharedMemory()).is_quick(message.SerializeToString())


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_response_beyond_the_limit_is_refused_and_one_within_it_is_not(datatype: str) -> None:
    outputs = {"y": np.zeros(1000, np.float32) if datatype == "FP32" else np.array(["x" * 1000] * 4, np.object_)}
    signature = Signature((), (TensorSpec("y", DATATYPES[datatype], (-1,)),), 0)
    response = InferResponse(Provenance("m", "1", "cpu", "", "", "fp32"), "", signature, outputs, {})
    assert len(Codec(None, 5000).encode(response, {})) > 4000
    with pytest.raises(Overloaded, match=r"the response of model 'm' has 4\d\d\d bytes, more than 4000 "):
        Codec(None, 4000).encode(response, {})
