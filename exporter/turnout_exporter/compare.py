"""The difference between ONNX Runtime's outputs and PyTorch's, and whether it is small enough."""

from dataclasses import dataclass

import numpy as np

# As a share of the largest value in the output. float32 kernels sum in different orders: 5e-7 is usual, 1e-5 was seen.
RELATIVE_TOLERANCES = {"float16": 5e-3, "float32": 1e-4, "float64": 1e-4}
ABSOLUTE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """The comparison of one output at one point.

    Attributes:
        max_abs_error: the largest difference between two elements.
        max_rel_error: the same as a share of the output's largest absolute value.
        allowed: the largest `max_abs_error` that passes.
        problem: why it doesn't pass; empty if it does.
    """

    point: str
    output: str
    max_abs_error: float
    max_rel_error: float
    allowed: float
    problem: str = ""


def failed(point: str, output: str, problem: str) -> Comparison:
    """A comparison that couldn't be made; its errors are infinite."""
    return Comparison(point, output, float("inf"), float("inf"), 0.0, problem)


def compare(point: str, output: str, expected: np.ndarray, actual: np.ndarray) -> Comparison:
    """Compares PyTorch's array with ONNX Runtime's; equal infinities and NaNs in the same places count as equal."""
    if (expected.shape, expected.dtype) != (actual.shape, actual.dtype):
        return failed(point, output, f"is {_kind(actual)}, PyTorch's is {_kind(expected)}")
    finite = expected[np.isfinite(expected)].astype(np.float64)
    scale = float(np.abs(finite).max(initial=0.0))
    differences = _differences(expected, actual)
    error = float(differences.max(initial=0.0))
    allowed = _allowed(expected.dtype, scale)
    problem = _describe(expected, actual, differences, allowed) if error > allowed else ""
    return Comparison(point, output, error, error / scale if scale else error, allowed, problem)


def _differences(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """The absolute difference of each element; infinite where only one of the two is finite."""
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore"):
        differences = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    return np.where(same, 0.0, np.nan_to_num(differences, nan=np.inf))


def _allowed(dtype: np.dtype, scale: float) -> float:
    if dtype.name not in RELATIVE_TOLERANCES:
        return 0.0  # integers and booleans must be equal
    return RELATIVE_TOLERANCES[dtype.name] * scale + ABSOLUTE_TOLERANCE


def _describe(expected: np.ndarray, actual: np.ndarray, differences: np.ndarray, allowed: float) -> str:
    worst = np.unravel_index(int(differences.argmax()), differences.shape)
    where = f"[{', '.join(str(int(index)) for index in worst)}]"
    return (
        f"differs by {differences[worst]:.3g} at {where}: PyTorch {expected[worst]:.6g}, "
        f"ONNX Runtime {actual[worst]:.6g} (allowed {allowed:.3g})"
    )


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
