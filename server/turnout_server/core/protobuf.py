"""Reads the fields of a protobuf message in place, without a description of it.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

import mmap
from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Buffer = mmap.mmap | memoryview | bytes
#: Where a message lies: the first byte, and the one after the last.
Span = tuple[int, int]


def fields(data: Buffer, span: Span) -> Iterator[tuple[int, int | Span]]:
    """The number of each field of a message, and its value: a number, or where its content lies.

    Fields of a fixed size are left out.

    Raises:
        ValueError, IndexError: it isn't a message.
    """
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif wire_type == _LENGTH:
            length, at = _varint(data, at)
            yield tag >> 3, (at, at + length)
            at += length
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
    if at > end:
        raise ValueError("the message ends within a field")


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    """The base-128 number at `at`, and where it ends; IndexError behind the end of the file."""
    value, shift = 0, 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number does not end")
