"""Statistics as pure functions of arrays."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def minimum_samples(quantile: float, confidence: float = 0.99) -> int:
    """How many samples it takes until, with this confidence, one of them lies above the quantile.

    With fewer, the estimate is the largest value seen or near it, and says little about the tail: 90 for p95, 459 for p99.
    """
    return math.ceil(round(math.log(1 - confidence) / math.log(quantile), 9))


def percentile(values: NDArray[Any], quantile: float) -> float | None:
    """The smallest value that at least this share of the values doesn't exceed; None when there are too few."""
    if len(values) < minimum_samples(quantile):
        return None
    return float(np.quantile(values, quantile, method="inverted_cdf"))


def median(values: NDArray[Any]) -> float | None:
    """Of any number of values; None of none."""
    return float(np.median(values)) if len(values) else None


def per_second(count: int, duration_s: float) -> float:
    """A rate; 0 for an empty window."""
    return count / duration_s if duration_s > 0 else 0.0
