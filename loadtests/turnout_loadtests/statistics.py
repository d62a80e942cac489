"""Statistics as pure functions of arrays."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def minimum_samples(quantile: float, confidence: float = 0.99) -> int:
    """The number of samples of which, with this confidence, one lies above the quantile: 90 for p95, 459 for p99.

    With fewer samples the estimate is the largest value seen or close to it, and says little about the tail.
    """
    return math.ceil(round(math.log(1 - confidence) / math.log(quantile), 9))


def percentile(values: NDArray[Any], quantile: float) -> float | None:
    """The smallest value that at least this share of the values doesn't exceed; None if there are too few values."""
    return nearest_rank(values, quantile) if len(values) >= minimum_samples(quantile) else None


def nearest_rank(values: ArrayLike, quantile: float) -> float:
    """The same of any number of values, but at least one.

    For measurements that are repeated, so that the median of several makes up for few values in each.
    """
    return float(np.quantile(np.asarray(values), quantile, method="inverted_cdf"))


def median(values: NDArray[Any]) -> float | None:
    """The median of any number of values; None of no values."""
    return float(np.median(values)) if len(values) else None


def per_second(count: int, duration_s: float) -> float:
    """The rate of `count` events in a window; 0 if the window is empty."""
    return count / duration_s if duration_s > 0 else 0.0
