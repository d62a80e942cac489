"""The difference between ONNX Runtime's outputs and the right ones, and whether it is small enough."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# As a share of the largest value in the output. float32 kernels sum in different orders: 5e-7 is usual, 1e-5 was seen.
RELATIVE_TOLERANCES = {"float16": 5e-3, "float32": 1e-4, "float64": 1e-4}
ABSOLUTE_TOLERANCE = 1e-5
# Values this large, and so many times as large as so many others, have a scale of their own. Fewer may be small by chance.
_LARGE, _TIMES, _OTHERS = 1e3, 1e3, 3
_SHOWN_VALUES = 12


@dataclass(frozen=True)
class Comparison:
    """The comparison of one output at one point, by the element that is worst for its scale.

    Attributes:
        max_abs_error: how much it differs.
        max_rel_error: the same as a share of its scale, the output's largest absolute value; see `scales`.
        allowed: the largest `max_abs_error` that passes.
        problem: why it doesn't pass; empty if it does.
        differing_share: how many of the elements differ by more than `allowed`, as a share of all.
    """

    point: str
    output: str
    max_abs_error: float
    max_rel_error: float
    allowed: float
    problem: str = ""
    differing_share: float = 0.0


def failed(point: str, output: str, problem: str) -> Comparison:
    """A comparison that couldn't be made; its errors are infinite."""
    return Comparison(point, output, float("inf"), float("inf"), 0.0, problem, 1.0)


def compare(
    point: str,
    output: str,
    expected: np.ndarray,
    actual: np.ndarray,
    inputs: Mapping[str, np.ndarray] | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Compares the right array with ONNX Runtime's; equal infinities and NaNs in the same places count as equal.

    Args:
        inputs: what was asked; the row of the worst element is part of the problem.
        tolerance: what a value may differ by, as a share of the largest one; None for the type's own.
    """
    if _kind(expected) != _kind(actual):
        return failed(point, output, f"is {_kind(actual)} instead of {_kind(expected)}")
    if expected.dtype.kind == "U":
        return _compare_text(point, output, expected, actual)
    if not expected.size:
        return Comparison(point, output, 0.0, 0.0, 0.0)
    scale = scales(expected)
    differences = _differences(expected, actual)
    shares = differences / np.where(scale, scale, 1.0)
    allowed = _allowed(expected.dtype, scale, tolerance)
    wrong = differences > allowed
    worst = np.unravel_index(int(np.where(wrong | ~wrong.any(), shares, -1.0).argmax()), shares.shape)
    error, limit = float(differences[worst]), float(allowed[worst])
    problem = _describe(expected, actual, worst, error, limit, inputs or {}) if wrong.any() else ""
    share = np.count_nonzero(wrong) / wrong.size
    return Comparison(point, output, error, float(shares[worst]), limit, problem, share)


def scales(expected: np.ndarray) -> np.ndarray:
    """What each element's error is judged against: the largest finite absolute value, or the largest of the element's group.

    A mask's fill value, such as -1e9, would make any error of the other elements a small one. So floats that are far larger
    than all others are a group of their own.
    """
    sizes = np.abs(np.where(np.isfinite(expected), expected, 0).astype(np.float64))
    largest = float(sizes.max(initial=0.0))
    if expected.dtype.kind != "f" or largest < _LARGE:
        return np.full(expected.shape, largest)
    ordered = np.sort(sizes[sizes > 0])
    steps = np.flatnonzero((ordered[1:] >= _LARGE) & (ordered[1:] / _TIMES >= ordered[:-1]))
    ends = np.append(ordered[steps[steps >= _OTHERS - 1]], largest)
    own: np.ndarray = ends[np.searchsorted(ends, sizes)]
    return own


def _compare_text(point: str, output: str, expected: np.ndarray, actual: np.ndarray) -> Comparison:
    wrong = np.argwhere(expected != actual)
    if not len(wrong):
        return Comparison(point, output, 0.0, 0.0, 0.0)
    where = tuple(wrong[0])
    return failed(point, output, f"is {str(actual[where])!r} at {_index(where)} instead of {str(expected[where])!r}")


def _differences(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """The absolute difference of each element; infinite where only one of the two is finite."""
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore"):
        differences = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    return np.where(same, 0.0, np.nan_to_num(differences, nan=np.inf))


def _allowed(dtype: np.dtype, scale: np.ndarray, tolerance: float | None) -> np.ndarray:
    if dtype.name not in RELATIVE_TOLERANCES:
        share, absolute = tolerance or 0.0, 0.0  # integers and booleans must be equal, unless the weights aren't
    else:
        share, absolute = RELATIVE_TOLERANCES[dtype.name] if tolerance is None else tolerance, ABSOLUTE_TOLERANCE
    return share * np.where(scale, scale, np.finfo(np.float64).tiny) + absolute  # of infinite tolerance 0 would make a NaN


def _describe(
    expected: np.ndarray,
    actual: np.ndarray,
    where: tuple[np.intp, ...],
    error: float,
    allowed: float,
    inputs: Mapping[str, np.ndarray],
) -> str:
    worst = tuple(int(index) for index in where)
    rows = _rows(worst, expected.shape, inputs)
    return (
        f"differs by {error:.3g} at {_index(worst)}: {expected[worst]:.6g} became {actual[worst]:.6g} "
        f"(allowed {allowed:.3g}){rows and ', for ' + rows}"
    )


def _rows(worst: tuple[int, ...], shape: tuple[int, ...], inputs: Mapping[str, np.ndarray]) -> str:
    """The inputs' rows that belong to an element of an output, as far as axis 0 is the same for both."""
    if not worst:
        return ""
    fitting = {name: array[worst[0]] for name, array in inputs.items() if array.ndim and array.shape[0] == shape[0]}
    return ", ".join(f"{name}[{worst[0]}] = {_abridged(row)}" for name, row in fitting.items())


def _abridged(row: np.ndarray) -> str:
    flat = np.asarray(row).reshape(-1)
    shown = " ".join(str(value) if flat.dtype.kind in "biuU" else f"{value:.4g}" for value in flat[:_SHOWN_VALUES])
    return f"[{shown}{' ...' if flat.size > _SHOWN_VALUES else ''}]" if np.ndim(row) else shown


def _index(where: tuple[int, ...]) -> str:
    return f"[{', '.join(str(int(index)) for index in where)}]"


def _kind(array: np.ndarray) -> str:
    return f"{'string' if array.dtype.kind == 'U' else array.dtype.name}[{','.join(map(str, array.shape))}]"
