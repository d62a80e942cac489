"""Splits the bytes of a ModelInferRequest into fields before protobuf parses them.

This does two things for large messages that protobuf's Python classes can't. It avoids copies of tensors: parsing copies them
once, and each access to `raw_input_contents` copies them again. And it refuses a message of millions of empty fields before it
becomes millions of objects (4 MiB of two-byte inputs took 167 MiB).

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import NamedTuple

from turnout_server.core.errors import InvalidRequest

#: For shorter messages, splitting costs more than it saves.
LARGE_BYTES = 16 * 1024
#: No real request has as many inputs, outputs and parameters in total.
MAX_FIELDS = 4096

#: The tag of `repeated bytes raw_input_contents = 7`.
_RAW_INPUT_CONTENTS = (7 << 3) | 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message: its tag starts at `start`, its value spans from `content` to `end`."""

    tag: int
    start: int
    content: int
    end: int


def split(message: bytes) -> tuple[bytes, list[memoryview]]:
    """The message without its `raw_input_contents`, and these as views of it.

    Raises:
        InvalidRequest: it isn't a protobuf message, or has more than MAX_FIELDS fields.
    """
    view = memoryview(message)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    for field in fields(message):
        if field.tag == _RAW_INPUT_CONTENTS:
            raw.append(view[field.content : field.end])
        else:
            rest.append(view[field.start : field.end])
    return b"".join(rest), raw


def fields(message: bytes) -> Iterator[Field]:
    """Yields the fields of a ModelInferRequest in their order.

    Raises:
        InvalidRequest: it isn't a protobuf message, or has more than MAX_FIELDS fields.
    """
    at, count = 0, 0
    while at < len(message):
        count += 1
        if count > MAX_FIELDS:
            raise InvalidRequest(f"the message has more than {MAX_FIELDS} fields")
        start = at
        tag, at = _varint(message, at)
        at, content = _skip(message, at, tag & 7)
        if at > len(message):
            raise InvalidRequest("the message is not a valid ModelInferRequest: it ends within a field")
        yield Field(tag, start, content, at)


def _skip(message: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Where the field ends whose value starts at `at`, and where its content starts."""
    if wire_type == _LENGTH:
        length, content = _varint(message, at)
        return content + length, content
    if wire_type == _VARINT:
        return _varint(message, at)[1], at
    if wire_type in (_FIXED64, _FIXED32):
        return at + (8 if wire_type == _FIXED64 else 4), at
    raise InvalidRequest(f"the message is not a valid ModelInferRequest: wire type {wire_type}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The base-128 number at `at`, and where it ends."""
    value, shift = 0, 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidRequest("the message is not a valid ModelInferRequest: a number does not end")
