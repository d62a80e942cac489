"""Parses `--input`: `name=dtype[dims]@low:high`, such as `image=float32[batch,3,224,224]@0:1`."""

import math
import re
from dataclasses import dataclass
from typing import Self

import numpy as np

from turnout_exporter.errors import SpecError
from turnout_exporter.spec.datatypes import BY_DTYPE_NAME, Datatype

Bounds = tuple[float, float]  #: the lowest value and the excluded upper bound; both are int for an integer input

_PATTERN = re.compile(
    r"(?P<name>[^=/\s]+)=(?P<dtype>\w+)\[(?P<dims>[^\[\]]*)\](@(?P<low>[^:@]+):(?P<high>[^:@]+))?"
)  # no slash in a name: it is the separator in golden.npz
_EXAMPLE = "write name=dtype[dims]@low:high, for example image=float32[batch,3,224,224]@0:1 or ids=int64[batch,seq]@0:1000"


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        dims: an int for a fixed dimension, a name for a free one.
        bounds: the range of its values, upper bound excluded; None for standard normal.
    """

    name: str
    datatype: Datatype
    dims: tuple[int | str, ...]
    bounds: Bounds | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses one `--input`; `str()` of the result parses to the same again.

        Raises:
            SpecError: it can't be parsed; the text names the wrong part.
        """
        found = _PATTERN.fullmatch(text.strip())
        if not found:
            raise SpecError(f"input {text!r} can't be read: {_EXAMPLE}")
        name, datatype = found["name"], _datatype(found["dtype"], text)
        dims = tuple(_dim(part.strip(), text) for part in found["dims"].split(",")) if found["dims"].strip() else ()
        return cls(name, datatype, dims, _bounds(datatype, found["low"], found["high"], text))

    def __str__(self) -> str:
        bounds = f"@{self.bounds[0]}:{self.bounds[1]}" if self.bounds else ""
        return f"{self.name}={self.datatype.dtype.name}[{','.join(map(str, self.dims))}]{bounds}"

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """The shape when the free dimensions have these sizes."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.dims)

    def draw(self, sizes: dict[str, int], random: np.random.Generator) -> np.ndarray:
        """An array of random values within the bounds; its shape is `shape(sizes)`."""
        shape, dtype = self.shape(sizes), self.datatype.dtype
        if dtype.kind == "b":
            return random.integers(0, 2, shape).astype(dtype)
        if self.bounds is None:
            return random.standard_normal(shape).astype(dtype)
        low, high = self.bounds
        if dtype.kind in "iu":
            return random.integers(int(low), int(high), shape, dtype=dtype)
        return random.uniform(low, high, shape).astype(dtype)


def parse_inputs(texts: list[str]) -> list[InputSpec]:
    """Parses every `--input`, in the given order.

    Raises:
        SpecError: one can't be parsed, or two have the same name.
    """
    specs = [InputSpec.parse(text) for text in texts]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"input {name!r} is given {names.count(name)} times; give each input once")
    return specs


def dims_of(specs: list[InputSpec]) -> list[str]:
    """The free dimensions of all inputs, each once, in order of appearance."""
    return list(dict.fromkeys(dim for spec in specs for dim in spec.dims if isinstance(dim, str)))


def _datatype(name: str, text: str) -> Datatype:
    if name not in BY_DTYPE_NAME:
        raise SpecError(f"input {text!r}: unknown dtype {name!r}; use one of {', '.join(BY_DTYPE_NAME)}")
    return BY_DTYPE_NAME[name]


def _dim(part: str, text: str) -> int | str:
    if part.isdecimal() and int(part) > 0:
        return int(part)
    if part.isidentifier():
        return part
    raise SpecError(f"input {text!r}: dimension {part!r} is neither a positive number nor a name such as batch")


def _bounds(datatype: Datatype, low: str | None, high: str | None, text: str) -> Bounds | None:
    kind = datatype.dtype.kind
    if low is None or high is None:
        if kind in "iu":
            raise SpecError(
                f"input {text!r}: integers need the range of values that they take, the end excluded: "
                f"{text}@0:1000 for an index into 1000 entries"
            )
        return None
    if kind == "b":
        raise SpecError(f"input {text!r}: bool takes no range")
    number = float if kind == "f" else int
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
    limits = np.finfo(datatype.dtype) if datatype.dtype.kind == "f" else np.iinfo(datatype.dtype)
    low, high = bounds
    if low < limits.min or high > int(limits.max) + 1:
        raise SpecError(f"input {text!r}: {datatype.dtype.name} holds {limits.min} to {limits.max} only")
