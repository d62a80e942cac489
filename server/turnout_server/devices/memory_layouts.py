"""How the tensors of a run lie in the memory that the server shares with a device's process. Pure functions.

Server and worker agree on a layout once; later runs of the same shapes name it by its number. Inputs come first, then the
outputs whose shapes are known, so that a run can write them where the server reads them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from turnout_server.core.signatures import TensorSpec

#: Tensors begin at multiples of this many bytes, as vectorised kernels like it.
ALIGNMENT = 64


class Placed(NamedTuple):
    """A tensor in shared memory.

    Attributes:
        dtype: numpy's or ml_dtypes' name of the element type.
        offset: where it begins, in bytes.
        byte_size: its length.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    byte_size: int


class MemoryLayout(NamedTuple):
    """Where the tensors of a run lie.

    Attributes:
        inputs: every input of the model.
        outputs: the names of the wanted outputs, in order.
        placed: those of them whose shapes are known before the run; the others are described in its answer.
        bucket: the number of rows that the run was padded to; 0 if it wasn't.
        size: bytes in total.
    """

    inputs: tuple[Placed, ...]
    outputs: tuple[str, ...]
    placed: tuple[Placed, ...]
    bucket: int
    size: int


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """`size`, rounded up to a multiple of `to`."""
    return -(-size // to) * to


def layout_of(
    shapes: Mapping[str, tuple[int, ...]],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    rows: int | None,
    bucket: int = 0,
) -> MemoryLayout:
    """The layout of a run without text among its inputs, whose length isn't known from its shape.

    Args:
        shapes: of the inputs, by name, the padding included.
        inputs: the model's.
        outputs: the wanted ones.
        rows: the size of axis 0 that all inputs share; None if they share none, so that no output's shape is known.
        bucket: the number of rows that the run is padded to; 0 if it isn't.
    """
    at = 0
    placed_inputs = []
    for spec in inputs:
        placed = _placed(spec, shapes[spec.name], at)
        placed_inputs.append(placed)
        at = aligned(placed.offset + placed.byte_size)
    placed_outputs = []
    for spec in outputs:
        shape = _known_shape(spec, rows)
        if shape is not None and spec.datatype.name != "BYTES":
            placed = _placed(spec, shape, at)
            placed_outputs.append(placed)
            at = aligned(placed.offset + placed.byte_size)
    return MemoryLayout(tuple(placed_inputs), tuple(spec.name for spec in outputs), tuple(placed_outputs), bucket, max(at, 1))


def _placed(spec: TensorSpec, shape: tuple[int, ...], offset: int) -> Placed:
    count = 1
    for size in shape:
        count *= size
    return Placed(spec.name, spec.datatype.dtype.name, shape, offset, count * spec.datatype.itemsize)


def _known_shape(spec: TensorSpec, rows: int | None) -> tuple[int, ...] | None:
    """The shape of an output; None if its rows or another dimension depend on the run."""
    if spec.shape[:1] == (-1,) and rows is not None and -1 not in spec.shape[1:]:
        return (rows, *spec.shape[1:])
    return None if -1 in spec.shape else spec.shape
