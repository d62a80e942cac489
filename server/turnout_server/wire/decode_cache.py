"""Decodes requests that are laid out like an earlier one without parsing them.

A client's requests usually differ only in their ids and in the bytes of their tensors. So a decoded request is kept with
placeholders for those. A message that equals it everywhere else has the same meaning, and a few comparisons of bytes are enough
to decode it; parsing and validation cost ten times as much. A message that matches no cached request is parsed.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from dataclasses import dataclass
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from turnout_server.core.errors import InvalidRequest
from turnout_server.core.messages import Layout
from turnout_server.wire import fields

#: The output formats of a request.
T = TypeVar("T")

#: How many keys (model and message length) are kept, a few hundred bytes each. The oldest is evicted first.
LIMIT = 512
#: How many messages are kept per key: requests for `cuda:0` have the same length as those for `cuda:1`.
LIMIT_ALIKE = 4
#: A request with a longer header than this isn't kept.
LONGEST_HEADER_BYTES = 4096

#: Tags of ModelInferRequest's `model_version`, `id` and `raw_input_contents`.
_VERSION, _ID, _RAW_INPUT = ((field << 3) | 2 for field in (2, 3, 7))
#: From this value on, a length takes more than one byte.
_LONG = 0x80


@dataclass(frozen=True, slots=True)
class Description:
    """The fields of a request except its id and its tensors' values; see InferRequest."""

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
    """Where a tensor's bytes are: `at` bytes after the id. Its `tag`, which includes the length, starts at `tag_at`."""

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
        header: the bytes between the id and the first tensor.
    """

    header: bytes
    placeholders: tuple[_Placeholder, ...]
    description: Description
    formats: T


class DecodeCache(Generic[T]):
    """Requests that were decoded before. Any thread may call any method."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], tuple[_CachedRequest[T], ...]] = {}
        self._lock = Lock()

    def find(self, message: bytes) -> tuple[Description, T, str, dict[str, np.ndarray]] | None:
        """A message's description, output formats, id and inputs; None if it is laid out like no earlier one.

        The inputs are views of the message, possibly unaligned.
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
        """Keeps a decoded message, if it has the usual layout: all tensors raw, and at its end."""
        try:
            id_at, at = _around_id(message)
            cached = _cached(message, id_at, at, description, inputs, formats)
        except (IndexError, InvalidRequest):  # only a name, or too many fields
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
    """Where a message's id field starts, and where the rest of the message starts; the same if it has no id.

    Correct for messages that start with name, version and id, as all do that `_cached` accepts.

    Raises:
        IndexError: the message ends earlier.
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
    """A message without its id and tensors; None if its layout is unusual, so that it can't be cached.

    Args:
        id_at, at: where `_around_id` found the id and the rest; this checks whether they are there.

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
