"""Reads requests that are laid out like an earlier one without parsing them.

A client's requests usually differ in their id and in the bytes of their tensors only. So a request that was decoded once is
kept with placeholders for those: a message that equals it everywhere else means the same, and reading it is a few comparisons
of bytes, where parsing and checking cost ten times as much. A message that matches nothing is parsed.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from dataclasses import dataclass
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from turnout_server.core.errors import InvalidRequest
from turnout_server.core.messages import Layout
from turnout_server.wire import fields

#: How the outputs of a request are wanted.
T = TypeVar("T")

#: How many kinds of messages are kept: by model and length. One takes a few hundred bytes. The oldest leaves first.
LIMIT = 512
#: How many messages of one kind are kept: requests for `cuda:0` are as long as those for `cuda:1`.
LIMIT_ALIKE = 4
#: A request that is described by more bytes than this isn't kept.
LONGEST_HEADER_BYTES = 4096

#: Tags of ModelInferRequest's `model_version`, `id` and `raw_input_contents`.
_VERSION, _ID, _RAW_INPUT = ((field << 3) | 2 for field in (2, 3, 7))
#: From this number on, a length takes more than one byte.
_LONG = 0x80


@dataclass(frozen=True, slots=True)
class Description:
    """All that a request says, except for its id and its tensors' values; see InferRequest."""

    model: str
    version: str
    outputs: tuple[str, ...]
    device: str
    timeout_us: int | None
    objective: str
    precision: str
    priority: int
    layout: Layout


class _Placeholder(NamedTuple):
    """Where a tensor's bytes are: `at` bytes behind the id, after its `tag`, which begins at `tag_at`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    at: int
    tag: bytes
    tag_at: int


@dataclass(frozen=True, slots=True)
class _CachedRequest(Generic[T]):
    """A message without its id and its tensors' bytes.

    Attributes:
        header: the bytes between the two.
    """

    header: bytes
    placeholders: tuple[_Placeholder, ...]
    description: Description
    formats: T


class DecodeCache(Generic[T]):
    """Requests that were decoded before. For any thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], tuple[_CachedRequest[T], ...]] = {}
        self._lock = Lock()

    def find(self, message: bytes) -> tuple[Description, T, str, dict[str, np.ndarray]] | None:
        """What a message says: its description, output formats, id and inputs; None if it is like no earlier one.

        The inputs are views of the message, at any alignment.
        """
        try:
            id_at, at = _around_id(message)
        except IndexError:
            return None
        for cached in self._known.get((message[:id_at], len(message) - at), ()):
            if message.startswith(cached.header, at):
                break
        else:
            return None
        inputs: dict[str, np.ndarray] = {}
        for name, shape, dtype, data_at, tag, tag_at in cached.placeholders:
            if not message.startswith(tag, at + tag_at):
                return None
            inputs[name] = np.ndarray(shape, dtype, message, at + data_at)
        try:
            request_id = message[id_at + 2 : at].decode() if at > id_at else ""
        except UnicodeDecodeError:
            return None
        return cached.description, cached.formats, request_id, inputs

    def keep(self, message: bytes, description: Description, inputs: dict[str, np.ndarray], formats: T) -> None:
        """Remembers a message that was decoded, if it is of the usual kind: all tensors raw, and at its end."""
        try:
            id_at, at = _around_id(message)
            cached = _cached(message, id_at, at, description, inputs, formats)
        except (IndexError, InvalidRequest):  # nothing but a name, or of more fields than are looked through
            return
        if cached is None:
            return
        key = message[:id_at], len(message) - at
        with self._lock:
            alike = self._known.get(key, ())
            if not alike and len(self._known) >= LIMIT:
                del self._known[next(iter(self._known))]
            self._known[key] = (cached, *alike[: LIMIT_ALIKE - 1])


def _around_id(message: bytes) -> tuple[int, int]:
    """Where a message's id begins, and where what follows it does; the same if it has none.

    Right for messages that `_cached` accepts, and for those that begin as one of them does: with name, version and id.

    Raises:
        IndexError: the message ends before.
    """
    at = 2 + message[1]
    if message[at] == _VERSION:
        at += 2 + message[at + 1]
    if message[at] == _ID and message[at + 1] < _LONG:
        return at, at + 2 + message[at + 1]
    return at, at


def _cached(
    message: bytes, id_at: int, at: int, description: Description, inputs: dict[str, np.ndarray], formats: T
) -> _CachedRequest[T] | None:
    """What a message has in common with those like it; None if its id isn't where it seems, or its tensors not at its end.

    Args:
        id_at, at: where its id seems to begin, and what follows.

    Raises:
        InvalidRequest: it has too many fields.
    """
    found = list(fields.fields(message))
    raw = [field for field in found if field.tag == _RAW_INPUT]
    rest = [field for field in found if field.tag != _RAW_INPUT]
    ids = [(field.start, field.end) for field in rest if field.tag == _ID]
    if rest + raw != found or ids != [(id_at, at)] * (at > id_at) or all(field.end != at for field in rest):
        return None
    if len(raw) != len(inputs) or any(array.dtype.kind == "O" for array in inputs.values()):
        return None
    header = message[at : raw[0].start] if raw else message[at:]
    if len(header) > LONGEST_HEADER_BYTES:
        return None
    placeholders = [
        _Placeholder(name, array.shape, array.dtype, field.content - at, message[field.start : field.content], field.start - at)
        for (name, array), field in zip(inputs.items(), raw, strict=True)
    ]
    return _CachedRequest(header, tuple(placeholders), description, formats)
