"""Requests that are laid out like one before, read without being parsed.

A client's requests differ in their id and in their tensors' bytes, and in nothing else. So a request that was decoded once is
kept as a template with holes for those two: a message that equals it outside the holes is what it was, and reading it is a
few comparisons of bytes where parsing and checking cost ten times as much. One that doesn't match is parsed as ever.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from dataclasses import dataclass, replace
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from turnout_server.core.errors import InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.wire import fields as wire

#: What else is known of a request, besides the request.
T = TypeVar("T")

#: Lengths of messages to one model that templates are kept for; a template is a few hundred bytes. The oldest leaves first.
LIMIT = 512
#: Templates kept for one of them: requests for `cuda:0` are as long as those for `cuda:1`.
LIMIT_ALIKE = 4
#: A request that is described by more than this isn't like any other.
LONGEST_HEADER_BYTES = 4096

#: Tags of ModelInferRequest's `model_version`, `id` and `raw_input_contents`.
_VERSION, _ID, _RAW_INPUT = ((field << 3) | 2 for field in (2, 3, 7))
#: From this on a length takes more than one byte.
_LONG = 0x80


class _Hole(NamedTuple):
    """Where a tensor's bytes are: `at` bytes behind the id, after its `tag`, which begins at `tag_at`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    at: int
    tag: bytes
    tag_at: int


@dataclass(frozen=True, slots=True)
class _Template(Generic[T]):
    """A message without its id and its tensors' bytes.

    Attributes:
        header: what lies between the two.
        request: what the message said, without inputs.
        more: what else is known of it.
    """

    header: bytes
    holes: tuple[_Hole, ...]
    request: InferRequest
    more: T


class Templates(Generic[T]):
    """The templates of one server. For any thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], tuple[_Template[T], ...]] = {}
        self._lock = Lock()

    def read(self, message: bytes) -> tuple[InferRequest, T] | None:
        """The request in a message that matches a template; None if none does.

        Its arrays are views of the message, wherever they lie in it.
        """
        try:
            id_at, at = _around_id(message)
        except IndexError:
            return None
        for template in self._known.get((message[:id_at], len(message) - at), ()):
            if message.startswith(template.header, at):
                break
        else:
            return None
        inputs: dict[str, np.ndarray] = {}
        for name, shape, dtype, data_at, tag, tag_at in template.holes:
            if not message.startswith(tag, at + tag_at):
                return None
            inputs[name] = np.ndarray(shape, dtype, message, at + data_at)
        try:
            request_id = message[id_at + 2 : at].decode() if at > id_at else ""
        except UnicodeDecodeError:
            return None
        known = template.request
        request = InferRequest(
            known.model,
            known.version,
            request_id,
            inputs,
            known.outputs,
            known.device,
            known.timeout_us,
            known.objective,
            known.precision,
            known.priority,
            layout=known.layout,
        )
        return request, template.more

    def keep(self, message: bytes, request: InferRequest, more: T) -> None:
        """Makes a template of a message that was decoded, if it is of the usual kind: all tensors raw, and at its end."""
        try:
            id_at, at = _around_id(message)
            template = _template(message, id_at, at, request, more)
        except (IndexError, InvalidRequest):  # nothing but a name, or of more fields than are looked through
            return
        if template is None:
            return
        key = message[:id_at], len(message) - at
        with self._lock:
            alike = self._known.get(key, ())
            if not alike and len(self._known) >= LIMIT:
                del self._known[next(iter(self._known))]
            self._known[key] = (template, *alike[: LIMIT_ALIKE - 1])


def _around_id(message: bytes) -> tuple[int, int]:
    """Where a message's id begins, and where what follows it does; the same where there is none.

    Right for messages that `_template` accepts, and for those that begin as one of them does: with name, version and id.

    Raises:
        IndexError: the message ends before.
    """
    at = 2 + message[1]
    if message[at] == _VERSION:
        at += 2 + message[at + 1]
    if message[at] == _ID and message[at + 1] < _LONG:
        return at, at + 2 + message[at + 1]
    return at, at


def _template(message: bytes, id_at: int, at: int, request: InferRequest, more: T) -> _Template[T] | None:
    """What a message has in common with those like it; None if its id isn't where it seems, or its tensors not at its end.

    Args:
        id_at, at: where its id seems to begin, and what follows.

    Raises:
        InvalidRequest: it has too many fields.
    """
    fields = list(wire.fields(message))
    raw = [field for field in fields if field.tag == _RAW_INPUT]
    rest = [field for field in fields if field.tag != _RAW_INPUT]
    ids = [(field.start, field.end) for field in rest if field.tag == _ID]
    if rest + raw != fields or ids != [(id_at, at)] * (at > id_at) or all(field.end != at for field in rest):
        return None
    if len(raw) != len(request.inputs) or any(array.dtype.kind == "O" for array in request.inputs.values()):
        return None
    header = message[at : raw[0].start] if raw else message[at:]
    if len(header) > LONGEST_HEADER_BYTES:
        return None
    holes = [
        _Hole(name, array.shape, array.dtype, field.content - at, message[field.start : field.content], field.start - at)
        for (name, array), field in zip(request.inputs.items(), raw, strict=True)
    ]
    return _Template(header, tuple(holes), replace(request, id="", inputs={}), more)
