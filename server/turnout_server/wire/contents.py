"""Reads typed tensors, the values of InferTensorContents, straight from the wire into an array.

Protobuf's classes would copy the values twice and make an object of each. Numbers are decoded with numpy, in pieces that are
small enough for other threads to run in between.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from turnout_server.core.errors import InvalidRequest
from turnout_server.wire import fields

#: A memoryview of a message, or a message of its own.
Buffer = bytes | memoryview


class _Kind(NamedTuple):
    """A field of InferTensorContents: the wire type of one unpacked value, and the dtype of its numbers on the wire."""

    name: str
    wire_type: int
    dtype: np.dtype


_KINDS = {
    number: _Kind(name, wire_type, np.dtype(dtype))
    for number, (name, wire_type, dtype) in enumerate(
        [
            ("bool_contents", fields.VARINT, np.bool_),
            ("int_contents", fields.VARINT, np.int32),
            ("int64_contents", fields.VARINT, np.int64),
            ("uint_contents", fields.VARINT, np.uint32),
            ("uint64_contents", fields.VARINT, np.uint64),
            ("fp32_contents", fields.FIXED32, np.float32),
            ("fp64_contents", fields.FIXED64, np.float64),
            ("bytes_contents", fields.LENGTH, np.object_),
        ],
        start=1,
    )
}
_BY_NAME = {kind.name: kind for kind in _KINDS.values()}
#: Bytes that numpy decodes at a time: about a millisecond, and some megabytes of temporary arrays.
_PIECE_BYTES = 64 * 1024


class WrongFieldError(Exception):
    """Values are in another field than the one asked for; the text is that field's name."""


def numbers(contents: Sequence[Buffer], field: str) -> tuple[int, Iterator[np.ndarray]]:
    """The numbers in one field: how many there are, and the numbers themselves in pieces, in the field's own dtype.

    Args:
        contents: concatenated, one InferTensorContents.
        field: `fp32_contents`, `int_contents`, ...

    Raises:
        WrongFieldError: another field has values.
        InvalidRequest: the bytes aren't an InferTensorContents.
    """
    kind = _BY_NAME[field]
    count = sum(_count(piece, kind) for piece in values(contents, field))
    return count, (part for piece in values(contents, field) for part in _decoded(piece, kind))


def values(contents: Sequence[Buffer], field: str) -> Iterator[memoryview]:
    """The values in one field: each element of `bytes_contents`, or one or more numbers at a time.

    Raises:
        WrongFieldError, InvalidRequest: see `numbers`.
    """
    for part in contents:
        view, unknown = memoryview(part), fields.Count()
        for each in fields.fields(part, _Uncounted()):
            kind = _KINDS.get(each.tag >> 3)
            wire_type = each.tag & 7
            if kind is None or wire_type not in (kind.wire_type, fields.LENGTH):
                unknown.take()  # protobuf ignores fields that it doesn't know
            elif kind.wire_type != fields.LENGTH and each.content == each.end:
                unknown.take()  # no numbers
            elif kind.name != field:
                raise WrongFieldError(kind.name)
            else:
                yield view[each.content : each.end]


class _Uncounted(fields.Count):
    """For elements of `bytes_contents`, each of which is a field: their reader stops at the number it expects."""

    def take(self) -> None:
        pass


def _count(piece: memoryview, kind: _Kind) -> int:
    """How many numbers these bytes hold."""
    if kind.wire_type == fields.VARINT:
        if piece[-1] >= 0x80:
            raise InvalidRequest("the message is not a valid ModelInferRequest: a number does not end")
        return sum(
            int(np.count_nonzero(np.frombuffer(piece[at : at + _PIECE_BYTES], np.uint8) < 0x80))
            for at in range(0, len(piece), _PIECE_BYTES)
        )
    if len(piece) % kind.dtype.itemsize:
        raise InvalidRequest(f"the message is not a valid ModelInferRequest: {kind.name} has {len(piece)} bytes")
    return len(piece) // kind.dtype.itemsize


def _decoded(piece: memoryview, kind: _Kind) -> Iterator[np.ndarray]:
    """The numbers in these bytes, a part at a time."""
    if kind.wire_type != fields.VARINT:
        yield np.frombuffer(piece, kind.dtype)
        return
    at = 0
    while at < len(piece):
        part = np.frombuffer(piece[at : at + _PIECE_BYTES], np.uint8)
        ends = np.flatnonzero(part < 0x80)
        if not len(ends):
            raise InvalidRequest("the message is not a valid ModelInferRequest: a number does not end")
        whole = int(ends[-1]) + 1
        yield _varints(part[:whole], ends).astype(kind.dtype)  # wraps negative numbers, which are sent as unsigned ones
        at += whole


def _varints(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The base-128 numbers in these bytes as uint64, given where each of them ends."""
    if len(ends) == len(data):
        return data.astype(np.uint64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if sizes.max() > fields.MAX_VARINT_BYTES:
        raise InvalidRequest("the message is not a valid ModelInferRequest: a number does not end")
    result = np.zeros(len(ends), np.uint64)
    for place in range(int(sizes.max())):
        longer = sizes > place
        digits = data[starts[longer] + place].astype(np.uint64) & np.uint64(0x7F)
        result[longer] |= digits << np.uint64(7 * place)
    return result
