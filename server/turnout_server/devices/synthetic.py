"""Synthetic inputs for models that nobody published inputs for, and the comparison of two runs on them."""

import numpy as np

from turnout_server.core.signatures import TensorSpec

#: The size of a free dimension other than the batch.
FREE_DIMENSION = 2
#: Two runs of the same rows may differ by this share of the largest value, because kernels sum in different orders.
TOLERANCE = 1e-3


def synthetic_inputs(inputs: tuple[TensorSpec, ...], rows: int, seed: int) -> dict[str, np.ndarray]:
    """An array for each input: standard normal floats, and zeros for other types, an index that every vocabulary has."""
    generator = np.random.default_rng(seed)
    return {spec.name: synthetic_tensor(spec, rows, generator) for spec in inputs}


def synthetic_tensor(spec: TensorSpec, rows: int, generator: np.random.Generator) -> np.ndarray:
    """An array for one input; see `synthetic_inputs`."""
    free = [rows if axis == 0 else FREE_DIMENSION for axis in range(len(spec.shape))]
    shape = [default if size == -1 else size for size, default in zip(spec.shape, free, strict=True)]
    dtype = spec.datatype.dtype
    if spec.datatype.name == "BYTES":
        return np.full(shape, "", dtype)
    if spec.datatype.name in ("FP16", "FP32", "FP64", "BF16"):
        return generator.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two runs of the same rows gave the same result, apart from the order in which kernels sum."""
    if a.shape != b.shape or a.dtype.kind in "OUS":
        return a.shape == b.shape and a.tolist() == b.tolist()
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = np.max(np.abs(x), initial=0.0)
    return bool(np.allclose(x, y, rtol=0, atol=TOLERANCE * scale, equal_nan=True))
