"""Inputs to try a session with: those that were published with its model, as often as needed, else made-up ones."""

from collections.abc import Mapping, Sequence

import numpy as np

from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.synthetic import synthetic_inputs

#: Inputs of one run, by name.
Example = Mapping[str, np.ndarray]
#: An example is kept for as long as its model is loaded, so it has no more rows, and none is kept that takes more memory.
MAX_ROWS = 8
MAX_BYTES = 32 << 20


def example_of(runs: Sequence[Example]) -> Example | None:
    """The first rows of the run that has most; None if there is no run, or it takes too much memory."""
    largest = max(runs, key=lambda inputs: max((_rows(array) for array in inputs.values()), default=0), default=None)
    if not largest:
        return None
    first = {name: array[:MAX_ROWS].copy() if array.ndim else array for name, array in largest.items()}
    return first if sum(array.nbytes for array in first.values()) <= MAX_BYTES else None


def trial_inputs(specs: Sequence[TensorSpec], rows: int, seed: int, example: Example | None = None) -> dict[str, np.ndarray]:
    """An array of so many rows for each input: rows of the example if they fit, else made up.

    Args:
        seed: which of the example's rows is the first, or what random numbers start from.
    """
    return (repeated(specs, rows, seed, example) if example else None) or synthetic_inputs(tuple(specs), rows, seed)


def repeated(specs: Sequence[TensorSpec], rows: int, first: int, example: Example) -> dict[str, np.ndarray] | None:
    """So many rows of the example, from `first` on, as often as needed; None if it isn't inputs of so many rows for them."""
    if any(spec.name not in example for spec in specs):
        return None
    batched = [spec.name for spec in specs if spec.shape[:1] == (-1,)]
    counts = {_rows(example[name]) for name in batched}
    if not batched:
        return dict(example)
    if len(counts) != 1 or 0 in counts:
        return None
    at = (first + np.arange(rows)) % counts.pop()
    return {spec.name: example[spec.name][at] if spec.name in batched else example[spec.name] for spec in specs}


def _rows(array: np.ndarray) -> int:
    return len(array) if array.ndim else 0
