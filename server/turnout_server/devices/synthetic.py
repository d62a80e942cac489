"""Synthetic inputs for models that nobody published inputs for, and the comparison of two runs on them."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from turnout_server.core.signatures import TensorSpec

#: Two runs of the same rows may differ by this share of the largest value, because kernels sum in different orders.
TOLERANCE = 1e-3


class Style(NamedTuple):
    """How inputs are made up.

    Attributes:
        whole: the value of integers. 0 is an index that every vocabulary has; a size of 0 makes little sense.
        free: the size of a free dimension other than the first.
        parameters: whether vectors and scalars are parameters of the operation instead of data: their floats are 1, and as
            many integers as an output has axes are that output's shape.
    """

    whole: int = 0
    free: int = 2
    parameters: bool = False


USUAL = Style()
#: In the order in which they are worth trying.
STYLES: Final[Sequence[Style]] = (
    USUAL,
    Style(whole=1),
    Style(whole=1, free=1),
    Style(whole=1, parameters=True),
    Style(whole=0, parameters=True),
    Style(whole=1, free=4, parameters=True),
)


def synthetic_inputs(
    inputs: tuple[TensorSpec, ...], rows: int, seed: int, style: Style = USUAL, outputs: Sequence[TensorSpec] = ()
) -> dict[str, np.ndarray]:
    """An array for each input: standard normal floats, and one value for all others, unless `style` makes it a parameter.

    Args:
        outputs: the model's, whose shapes some inputs may state.
    """
    generator = np.random.default_rng(seed)
    return {
        spec.name: _parameter(spec, rows, style, outputs)
        if style.parameters and len(spec.shape) <= 1 and spec.datatype.name != "BYTES"
        else synthetic_tensor(spec, rows, generator, style)
        for spec in inputs
    }


def synthetic_tensor(spec: TensorSpec, rows: int, generator: np.random.Generator, style: Style = USUAL) -> np.ndarray:
    """An array for one input; see `synthetic_inputs`."""
    shape = _shape(spec, rows, style)
    dtype = spec.datatype.dtype
    if spec.datatype.name == "BYTES":
        return np.full(shape, "", dtype)
    if spec.datatype.name in ("FP16", "FP32", "FP64", "BF16"):
        return generator.standard_normal(shape).astype(dtype)
    return np.full(shape, style.whole, dtype)


def _parameter(spec: TensorSpec, rows: int, style: Style, outputs: Sequence[TensorSpec]) -> np.ndarray:
    shape = _shape(spec, rows, style)
    if spec.datatype.name in ("INT32", "INT64") and len(shape) == 1:
        for output in outputs:
            if len(output.shape) == shape[0]:
                return np.array(_shape(output, rows, style), spec.datatype.dtype)
    return np.full(shape, 1 if spec.datatype.name.startswith(("FP", "BF")) else style.whole, spec.datatype.dtype)


def _shape(spec: TensorSpec, rows: int, style: Style) -> list[int]:
    free = [rows if axis == 0 else style.free for axis in range(len(spec.shape))]
    return [default if size == -1 else size for size, default in zip(spec.shape, free, strict=True)]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two runs of the same rows gave the same result, apart from the order in which kernels sum."""
    if a.shape != b.shape or a.dtype.kind in "OUS":
        return a.shape == b.shape and a.tolist() == b.tolist()
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = np.max(np.abs(x), initial=0.0)
    return bool(np.allclose(x, y, rtol=0, atol=TOLERANCE * scale, equal_nan=True))
