"""Tests that typed values are read as protobuf would read them."""

from collections.abc import Sequence

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server.core.errors import InvalidRequest
from turnout_server.wire.contents import WrongFieldError, numbers, values
from turnout_server.wire.fields import varint

NUMBERS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32, allow_nan=False),
    "fp64_contents": st.floats(allow_nan=False),
}


def read(contents: Sequence[bytes], field: str) -> list[object]:
    count, parts = numbers(contents, field)
    got = [number for part in parts for number in part.tolist()]
    assert len(got) == count
    return got


@given(st.sampled_from(sorted(NUMBERS)).flatmap(lambda name: st.tuples(st.just(name), st.lists(NUMBERS[name], max_size=9))))
def test_numbers_are_those_that_were_sent(sent: tuple[str, list[object]]) -> None:
    field, expected = sent
    message = pb.InferTensorContents()
    getattr(message, field).extend(expected)
    assert read([message.SerializeToString()], field) == expected


@given(st.lists(st.tuples(st.booleans(), st.lists(NUMBERS["int64_contents"], min_size=1, max_size=3)), max_size=4))
def test_packed_and_unpacked_values_may_be_mixed(groups: list[tuple[bool, list[int]]]) -> None:
    data = b""
    for packed, group in groups:
        digits = [varint(number % 2**64) for number in group]
        data += b"\x1a" + varint(len(b"".join(digits))) + b"".join(digits) if packed else b"".join(b"\x18" + d for d in digits)
    assert read([data], "int64_contents") == [number for _, group in groups for number in group]
    assert list(pb.InferTensorContents.FromString(data).int64_contents) == [number for _, group in groups for number in group]


@given(st.binary(max_size=40), st.sampled_from(sorted(NUMBERS)))
def test_any_bytes_are_read_as_protobuf_reads_them(data: bytes, field: str) -> None:
    try:
        count, parts = numbers([data], field)
        got = [part.tobytes() for part in parts]
    except (InvalidRequest, WrongFieldError):
        return
    try:
        expected = pb.InferTensorContents.FromString(data)
    except DecodeError:
        return  # stricter about unknown fields, which nobody reads
    dtype = {"int_contents": np.int32, "uint_contents": np.uint32}.get(field)
    want = np.array(getattr(expected, field), dtype) if dtype else np.array(getattr(expected, field))
    assert count == len(want)
    if count and field not in ("fp32_contents", "bool_contents"):
        assert b"".join(got) == want.tobytes()


def test_many_numbers_of_different_lengths_are_read_in_pieces() -> None:
    expected = [(1 << (number % 63)) * (-1 if number % 5 == 0 else 1) for number in range(100_000)]
    message = pb.InferTensorContents(int64_contents=expected)
    assert read([message.SerializeToString()], "int64_contents") == expected


def test_values_in_another_field_are_reported_by_its_name() -> None:
    message = pb.InferTensorContents(int_contents=[1], fp32_contents=[0.5])
    with pytest.raises(WrongFieldError, match="fp32_contents"):
        read([message.SerializeToString()], "int_contents")


def test_texts_are_views_of_the_message() -> None:
    data = pb.InferTensorContents(bytes_contents=[b"a", b"", b"ccc"]).SerializeToString()
    assert [bytes(text) for text in values([data], "bytes_contents")] == [b"a", b"", b"ccc"]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        pytest.param(b"\x1a\x01\x80", "int64_contents", id="a number that does not end"),
        pytest.param(b"\x1a\x0b" + b"\x80" * 10 + b"\x00", "int64_contents", id="a number of eleven bytes"),
        pytest.param(b"\x32\x03abc", "fp32_contents", id="part of a float"),
        pytest.param(b"\x42\x05abc", "bytes_contents", id="a text that ends early"),
        pytest.param(b"\x7a\x00" * 5000, "fp32_contents", id="thousands of unknown fields"),
    ],
)
def test_malformed_contents_are_refused(data: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest):
        read([data], field) if field != "bytes_contents" else list(values([data], field))
