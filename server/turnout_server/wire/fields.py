"""Splits the bytes of a ModelInferRequest into fields before protobuf parses them.

This does two things for large messages that protobuf's Python classes can't. It leaves tensors where they are: parsing copies
raw ones, each access to `raw_input_contents` copies them again, and typed ones become objects that take up to 37 times their
bytes. And it refuses a message of millions of small fields, on any level, before it becomes millions of objects.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from turnout_server.core.errors import InvalidRequest

#: For shorter messages, splitting costs more than it saves.
LARGE_BYTES = 16 * 1024
#: No real request has as many inputs, outputs, parameters and dimensions in total.
MAX_FIELDS = 4096
#: No real request has longer names and parameters in total; protobuf copies and checks them in one go.
MAX_REST_BYTES = 1 << 20
#: The most dimensions of a tensor; models need fewer, and numpy allows 64.
MAX_RANK = 16

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
#: Tags of ModelInferRequest's `inputs`, `outputs` and `raw_input_contents`.
_INPUTS, _OUTPUTS, _RAW_INPUT_CONTENTS = ((number << 3) | LENGTH for number in (5, 6, 7))
#: Tags of InferInputTensor's `name`, `shape` and `contents`.
_NAME, _SHAPE, _CONTENTS = ((number << 3) | LENGTH for number in (1, 3, 5))
#: A varint takes at most this many bytes.
MAX_VARINT_BYTES = 10
_NO_CONTENTS = bytes((_CONTENTS, 0))


class Field(NamedTuple):
    """A field of a message: its tag starts at `start`, its value spans from `content` to `end`."""

    tag: int
    start: int
    content: int
    end: int


@dataclass(frozen=True)
class Parts:
    """A ModelInferRequest, split.

    Attributes:
        rest: the message without the values of its tensors; an input with typed values has empty `contents` there.
        raw: views of `raw_input_contents`.
        contents: for each input, views of its `contents`; concatenated they are one InferTensorContents.
    """

    rest: bytes
    raw: list[memoryview] = field(default_factory=list)
    contents: list[list[memoryview]] = field(default_factory=list)


class Count:
    """How many fields may still come, on all levels of a message together."""

    def __init__(self, limit: int = MAX_FIELDS) -> None:
        self._limit = self._left = limit

    def take(self) -> None:
        """Counts one field.

        Raises:
            InvalidRequest: it is one too many.
        """
        self._left -= 1
        if self._left < 0:
            raise InvalidRequest(f"the message has more than {self._limit} fields")


def split(message: bytes) -> Parts:
    """Takes a message apart without copying its tensors.

    Raises:
        InvalidRequest: it isn't a ModelInferRequest, or has too many fields, dimensions, or bytes outside its tensors.
    """
    view, count = memoryview(message), Count()
    rest: list[bytes | memoryview] = []
    parts = Parts(b"")
    for each in fields(message, count):
        if each.tag == _RAW_INPUT_CONTENTS:
            parts.raw.append(view[each.content : each.end])
        elif each.tag == _INPUTS:
            without, contents = _split_input(view[each.content : each.end], count)
            rest += (bytes((_INPUTS,)), varint(len(without)), without)
            parts.contents.append(contents)
        else:
            if each.tag == _OUTPUTS:
                _count(view[each.content : each.end], count)
            rest.append(view[each.start : each.end])
    size = sum(map(len, rest))
    if size > MAX_REST_BYTES:
        raise InvalidRequest(
            f"names, shapes and parameters of the message take {size} bytes, at most {MAX_REST_BYTES} are accepted"
        )
    return Parts(b"".join(rest), parts.raw, parts.contents)


def fields(message: bytes | memoryview, count: Count | None = None) -> Iterator[Field]:
    """Yields the fields of a message in their order.

    Args:
        count: how many there may be; MAX_FIELDS if not given.

    Raises:
        InvalidRequest: it isn't a protobuf message, or has too many fields.
    """
    at, count = 0, count or Count()
    while at < len(message):
        count.take()
        start = at
        tag, at = read_varint(message, at)
        at, content = _skip(message, at, tag & 7)
        if at > len(message):
            raise InvalidRequest("the message is not a valid ModelInferRequest: it ends within a field")
        yield Field(tag, start, content, at)


def varint(number: int) -> bytes:
    """A number >= 0 in base 128, as tags and lengths are written."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def read_varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
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


def _split_input(tensor: memoryview, count: Count) -> tuple[bytes, list[memoryview]]:
    """An InferInputTensor with empty `contents`, and these as views of it."""
    rest: list[bytes | memoryview] = []
    contents: list[memoryview] = []
    name = b""
    for each in fields(tensor, count):
        if each.tag == _CONTENTS:
            contents.append(tensor[each.content : each.end])
            rest.append(_NO_CONTENTS)
            continue
        if each.tag == _NAME:
            name = bytes(tensor[each.content : min(each.end, each.content + 256)])
        if each.tag == _SHAPE and each.end - each.content > MAX_RANK * MAX_VARINT_BYTES:
            raise InvalidRequest(f"input '{name.decode(errors='replace')}' has more than {MAX_RANK} dimensions")
        rest.append(tensor[each.start : each.end])
    return b"".join(rest), contents


def _count(message: memoryview, count: Count) -> None:
    for _ in fields(message, count):
        pass


def _skip(message: bytes | memoryview, at: int, wire_type: int) -> tuple[int, int]:
    """Where the field ends whose value starts at `at`, and where its content starts."""
    if wire_type == LENGTH:
        length, content = read_varint(message, at)
        return content + length, content
    if wire_type == VARINT:
        return read_varint(message, at)[1], at
    if wire_type in (FIXED64, FIXED32):
        return at + (8 if wire_type == FIXED64 else 4), at
    raise InvalidRequest(f"the message is not a valid ModelInferRequest: wire type {wire_type}")
