"""How far a device's outputs are from those of another device for the same inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """The same rows on two devices.

    Attributes:
        max_error: largest absolute difference of any element, as a share of the largest element of its output; None if an
            output isn't numeric, or has another shape.
        same_top: rows whose largest element is in the same place, of those outputs that have several elements in a row; None if
            there is no such output.
    """

    model: str
    device: str
    reference: str
    rows: int
    max_error: float | None
    same_top: int | None


def agreement(model: str, device: str, reference: str, found: Sequence[Outputs], expected: Sequence[Outputs]) -> Agreement:
    """Compares the answers to the same requests; each maps output names to arrays (rows, ...)."""
    errors: list[float | None] = []
    tops: list[tuple[int, int]] = []
    rows = 0
    for ours, theirs in zip(found, expected, strict=True):
        rows += max((len(output) for output in theirs.values() if output.ndim), default=1)
        for name, output in theirs.items():
            other = ours.get(name)
            errors.append(None if other is None else _error(other, output))
            if other is not None and other.shape == output.shape and output.ndim == 2 and output.shape[1] > 1:
                same = other.argmax(axis=1) == output.argmax(axis=1)
                tops.append((int(same.sum()), len(same)))
    known = [error for error in errors if error is not None]
    return Agreement(
        model,
        device,
        reference,
        rows,
        max(known) if known and len(known) == len(errors) else None,
        sum(same for same, _ in tops) if tops else None,
    )


def _error(output: NDArray[Any], expected: NDArray[Any]) -> float | None:
    if output.shape != expected.shape or not {output.dtype.kind, expected.dtype.kind} <= {*"fiub"} or not expected.size:
        return None
    wanted, given = expected.astype(np.float64), output.astype(np.float64)
    if not np.isfinite(given).all() or not np.isfinite(wanted).all():
        return None
    return float(np.abs(given - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
