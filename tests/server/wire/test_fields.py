"""Tests how large messages are taken apart, and which are refused."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server.core.errors import InvalidRequest
from turnout_server.wire import fields
from turnout_server.wire.fields import MAX_FIELDS, MAX_REST_BYTES, read_varint, split, varint


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_numbers_are_read_as_they_are_written(number: int, before: bytes) -> None:
    written = varint(number)
    assert read_varint(before + written + b"\x05", len(before)) == (number, len(before) + len(written))


def filled() -> pb.ModelInferRequest:
    """A request in which every field is set."""
    message = pb.ModelInferRequest(model_name="m", model_version="1", id="7", raw_input_contents=[b"abc", b""])
    message.parameters["device"].string_param = "cpu"
    for name in ("a", "b"):
        tensor = message.inputs.add(name=name, datatype="INT8", shape=[1, 2])
        tensor.parameters["key"].int64_param = 3
        tensor.contents.int_contents.extend([1, -1])
        tensor.contents.fp32_contents.append(0.5)
        message.outputs.add(name=name).parameters["classification"].int64_param = 2
    return message


def test_the_parts_hold_what_the_message_held() -> None:
    message = filled()
    parts = split(message.SerializeToString())
    rest = pb.ModelInferRequest.FromString(parts.rest)
    assert [bytes(raw) for raw in parts.raw] == [b"abc", b""]
    for tensor, contents in zip(rest.inputs, parts.contents, strict=True):
        assert tensor.HasField("contents")
        assert not tensor.contents.ListFields()
        tensor.contents.MergeFromString(b"".join(contents))
    rest.raw_input_contents.extend(map(bytes, parts.raw))
    assert rest == message


def test_contents_in_several_parts_are_one() -> None:
    contents = [pb.InferTensorContents(int_contents=[number]).SerializeToString() for number in (1, 2)]
    tensor = b"".join(b"\x2a" + varint(len(part)) + part for part in contents)
    parts = split(b"\x2a" + varint(len(tensor)) + tensor)
    assert b"".join(parts.contents[0]) == b"".join(contents)


@given(st.binary(max_size=200))
def test_any_bytes_are_split_or_refused(data: bytes) -> None:
    try:
        parts = split(data)
    except InvalidRequest:
        return
    assert len(parts.rest) <= len(data) + 2 * sum(map(len, parts.contents))


def of_many(fill: Callable[[pb.ModelInferRequest, int], object]) -> bytes:
    message = pb.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x")
    tensor.contents.SetInParent()
    for number in range(MAX_FIELDS):
        fill(message, number)
    return message.SerializeToString()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(of_many(lambda message, _: message.inputs.add()), id="inputs"),
        pytest.param(of_many(lambda message, _: message.outputs.add()), id="outputs"),
        pytest.param(of_many(lambda message, n: message.parameters[str(n)].SetInParent()), id="parameters"),
        pytest.param(
            of_many(lambda message, n: message.inputs[0].parameters[str(n)].SetInParent()), id="parameters of an input"
        ),
        pytest.param(
            of_many(lambda message, n: (message.outputs or [message.outputs.add()])[0].parameters[str(n)].SetInParent()),
            id="parameters of an output",
        ),
        pytest.param(of_many(lambda message, _: message.raw_input_contents.append(b"")), id="raw contents"),
        pytest.param(b"\x2a" + varint(2 * MAX_FIELDS + 2) + b"\x18\x01" * (MAX_FIELDS + 1), id="unpacked dimensions"),
    ],
)
def test_too_many_fields_on_any_level_are_refused(message: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_FIELDS} fields"):
        split(message)


def test_packed_dimensions_are_refused_by_the_inputs_name() -> None:
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", shape=[1] * 161)
    with pytest.raises(InvalidRequest, match="input 'x' has more than 16 dimensions"):
        split(message.SerializeToString())


@pytest.mark.parametrize("place", ["name", "parameter"])
def test_a_message_of_long_texts_is_refused(place: str) -> None:
    message = pb.ModelInferRequest()
    if place == "name":
        message.model_name = "m" * MAX_REST_BYTES
    else:
        message.parameters["p"].string_param = "v" * MAX_REST_BYTES
    with pytest.raises(InvalidRequest, match=f"at most {MAX_REST_BYTES} are accepted"):
        split(message.SerializeToString())


def test_large_tensors_do_not_count_as_texts() -> None:
    message = filled()
    message.raw_input_contents[0] = bytes(2 * MAX_REST_BYTES)
    message.inputs[0].contents.fp64_contents.extend([0.0] * (MAX_REST_BYTES // 4))
    assert len(split(message.SerializeToString()).rest) < 1000


@pytest.mark.parametrize("message", [b"\x0a\x05ab", b"\xff", b"\x0b\x0c", b"\x2a\x02\x0a\x05"])
def test_a_message_that_ends_early_or_has_groups_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a valid ModelInferRequest"):
        list(fields.fields(message)) and split(message)
