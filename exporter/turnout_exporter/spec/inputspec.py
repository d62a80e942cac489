"""Parses `--input`: `name=type[dims]@values<=dim`, such as `image=float32[batch,3,224,224]@0:1`.

Besides the element types there are three kinds of inputs whose values depend on each other or on a size, so that independent
random values would be wrong: `mask`, `padding` and `lengths`.
"""

import math
import re
from dataclasses import dataclass
from typing import Self

import numpy as np

from turnout_exporter.errors import SpecError
from turnout_exporter.spec.datatypes import BY_SPELLING, Datatype

Bounds = tuple[float, float]  #: the lowest value and the excluded upper bound; both are int for an integer input

#: What `mask[...]` and so on stand for. A mask marks the elements that count, padding those that don't: in each row along the
#: last axis a run of elements from the first on counts, at least one of them.
KINDS = {"mask": "int64", "padding": "bool", "lengths": "int64"}
WORDS = ("blue", "green", "red", "the cat sat on the mat", "")  #: values of a text input without @values

_PATTERN = re.compile(
    r"((?P<name>[^=/\s\[\]]+)=)?(?P<type>[\w:]+)\[(?P<dims>[^\[\]]*)\]"
    r"(@(?P<values>[^@<]+))?((?P<relation><=?)(?P<limit>\w+)(?P<sorted>:sorted)?)?"
)  # no slash in a name: it is the separator in golden.npz
_EXAMPLES = (
    "write name=dtype[dims]@low:high, for example image=float32[batch,3,224,224]@0:1 or ids=int64[batch,seq]@0:1000; "
    "or name=mask[batch,seq], name=padding[batch,seq], name=lengths[batch]<=seq"
)


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        dims: an int for a fixed dimension, a name for a free one.
        bounds: the range of its values, upper bound excluded; None for standard normal, or if `--samples` gives the values.
        kind: `mask`, `padding` or `lengths`, else empty.
        limit: the dimension whose size limits the values; empty for none.
        below: whether values stay below that size (an index), or may equal it (a length).
        is_sorted: whether values come in descending order, as `pack_padded_sequence` wants them by default.
        choices: the values of a text input.
    """

    name: str
    datatype: Datatype
    dims: tuple[int | str, ...]
    bounds: Bounds | None = None
    kind: str = ""
    limit: str = ""
    below: bool = False
    is_sorted: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses one `--input`; `str()` of the result parses to the same again.

        Raises:
            SpecError: it can't be parsed; the text names the wrong part.
        """
        found = _PATTERN.fullmatch(text.strip())
        if not found or not (found["name"] or found["type"] in KINDS):
            raise SpecError(f"input {text!r} can't be read: {_EXAMPLES}")
        kind, datatype = _type(found["type"], text)
        dims = tuple(_dim(part.strip(), text) for part in found["dims"].split(",")) if found["dims"].strip() else ()
        spec = cls(
            found["name"] or kind,
            datatype,
            dims,
            bounds=None if datatype.dtype.kind == "U" else _bounds(datatype, found["values"], text),
            kind=kind,
            limit=found["limit"] or "",
            below=found["relation"] == "<",
            is_sorted=bool(found["sorted"]),
            choices=tuple((found["values"] or "").split("|")) if datatype.dtype.kind == "U" and found["values"] else (),
        )
        _check_kind(spec, text)
        return spec

    def __str__(self) -> str:
        dtype = self.datatype.spelling
        kind = self.kind if KINDS.get(self.kind) == dtype else f"{self.kind}:{dtype}"
        values = "|".join(self.choices) or (f"{self.bounds[0]}:{self.bounds[1]}" if self.bounds else "")
        relation = f"{'<' if self.below else '<='}{self.limit}{':sorted' if self.is_sorted else ''}" if self.limit else ""
        return f"{self.name}={kind if self.kind else dtype}[{','.join(map(str, self.dims))}]{values and '@' + values}{relation}"

    @property
    def needs_values(self) -> bool:
        """Whether nothing says which integers it takes."""
        return self.datatype.dtype.kind in "iu" and not (self.bounds or self.kind or self.limit)

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """The shape when the free dimensions have these sizes."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.dims)

    def draw(self, sizes: dict[str, int], random: np.random.Generator) -> np.ndarray:
        """An array of random values within the bounds; its shape is `shape(sizes)`.

        Raises:
            SpecError: `needs_values`.
        """
        shape, dtype = self.shape(sizes), self.datatype.dtype
        if self.needs_values:
            raise SpecError(f"input {self.name!r} has no values: give it a range, {self}@0:1000, or return it from --samples")
        if self.kind in ("mask", "padding"):
            return _runs(shape, random, counted=self.kind == "mask").astype(dtype)
        if self.limit:
            return self._up_to(sizes[self.limit], shape, random).astype(dtype)
        if dtype.kind == "U":
            return random.choice(np.array(self.choices or WORDS), shape)
        if dtype.kind == "f":
            return (random.uniform(*self.bounds, shape) if self.bounds else random.standard_normal(shape)).astype(dtype)
        low, high = self.bounds or (0, 2)
        values = random.integers(int(low), int(high), shape, dtype=dtype if dtype.kind in "iu" else np.int64)
        return _with_ends(values, int(low), int(high) - 1).astype(dtype)

    def _up_to(self, size: int, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        low = int(self.bounds[0]) if self.bounds else 1 - self.below
        highest = size - self.below
        values = _with_ends(random.integers(min(low, highest), highest + 1, shape), min(low, highest), highest)
        return -np.sort(-values.reshape(-1)).reshape(shape) if self.is_sorted else values


def parse_inputs(texts: list[str]) -> list[InputSpec]:
    """Parses every `--input`, in the given order.

    Raises:
        SpecError: one can't be parsed, two have the same name, or one is limited by a dimension that no input has.
    """
    specs = [InputSpec.parse(text) for text in texts]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"input {name!r} is given {names.count(name)} times; give each input once")
    dims = dims_of(specs)
    for spec in specs:
        if spec.limit and spec.limit not in dims:
            raise SpecError(f"input '{spec}': no input has a dimension {spec.limit!r}; there are {', '.join(dims) or 'none'}")
    return specs


def dims_of(specs: list[InputSpec]) -> list[str]:
    """The free dimensions of all inputs, each once, in order of appearance."""
    return list(dict.fromkeys(dim for spec in specs for dim in spec.dims if isinstance(dim, str)))


def _runs(shape: tuple[int, ...], random: np.random.Generator, *, counted: bool) -> np.ndarray:
    """Runs of `counted` from the start of each row: one row is complete, and another isn't, as far as there are rows."""
    lengths = _with_ends(random.integers(1, shape[-1] + 1, shape[:-1]), max(1, shape[-1] // 2), shape[-1])
    within = np.arange(shape[-1]) < lengths[..., None]
    return within if counted else ~within


def _with_ends(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """The values with both ends of their range among them, as far as there is room: first the high one, then the low one."""
    if values.size > 1:
        values.flat[0] = high
        values.flat[values.size - 1] = low
    return values


def _type(text: str, whole: str) -> tuple[str, Datatype]:
    """The kind and the datatype of `mask`, `mask:bool` or `int64`."""
    kind, _, dtype = text.partition(":")
    if kind not in KINDS:
        kind, dtype = "", text
    spelling = dtype or KINDS[kind]
    if spelling not in BY_SPELLING or (kind and spelling == "string"):
        raise SpecError(
            f"input {whole!r}: unknown dtype {text!r}; use one of {', '.join(BY_SPELLING)}, or mask, padding, lengths "
            f"(also with a dtype: mask:bool)"
        )
    return kind, BY_SPELLING[spelling]


def _dim(part: str, text: str) -> int | str:
    if part.isdecimal() and int(part) > 0:
        return int(part)
    if part.isidentifier():
        return part
    raise SpecError(f"input {text!r}: dimension {part!r} is neither a positive number nor a name such as batch")


def _check_kind(spec: InputSpec, text: str) -> None:
    if spec.kind in ("mask", "padding") and (not spec.dims or spec.bounds or spec.limit):
        raise SpecError(
            f"input {text!r}: a {spec.kind} has dimensions, such as {spec.name}={spec.kind}[batch,seq], and no values"
        )
    if spec.kind == "lengths" and not spec.limit:
        raise SpecError(f"input {text!r}: say which size limits the lengths, such as {text}<=seq")
    if spec.limit and spec.datatype.dtype.kind not in "iu":
        raise SpecError(f"input {text!r}: only integers can be limited by the size of a dimension")
    if spec.is_sorted and len(spec.dims) != 1:
        raise SpecError(f"input {text!r}: only an input with one dimension can be sorted")


def _bounds(datatype: Datatype, values: str | None, text: str) -> Bounds | None:
    if values is None:
        return None
    low, colon, high = values.partition(":")
    if not colon or not low or not high:
        raise SpecError(f"input {text!r}: {values!r} is no range of values: {_EXAMPLES}")
    number = float if datatype.dtype.kind == "f" else int
    bounds = _number(number, low, text), _number(number, high, text)
    _check_order(bounds, text)
    _check_fit(bounds, datatype, text)
    return bounds


def _number(kind: type[float], part: str, text: str) -> float:
    try:
        return kind(part)
    except ValueError:
        raise SpecError(f"input {text!r}: {part!r} in its range is not {kind.__name__}") from None


def _check_order(bounds: Bounds, text: str) -> None:
    low, high = bounds
    if not -math.inf < low < high < math.inf:
        raise SpecError(f"input {text!r}: there is no value from {low} up to but without {high}")


def _check_fit(bounds: Bounds, datatype: Datatype, text: str) -> None:
    low, high = bounds
    smallest, largest = _limits(datatype)
    if low < smallest or high > largest + 1:
        raise SpecError(f"input {text!r}: {datatype.spelling} holds {smallest} to {largest} only")


def _limits(datatype: Datatype) -> tuple[float, float]:
    if datatype.dtype.kind == "b":
        return 0, 1
    if datatype.dtype.kind == "f":
        return float(np.finfo(datatype.dtype).min), float(np.finfo(datatype.dtype).max)
    return int(np.iinfo(datatype.dtype).min), int(np.iinfo(datatype.dtype).max)
