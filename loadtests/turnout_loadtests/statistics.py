"""Statistics as pure functions of arrays: percentiles with their bounds, means and ratios with their intervals."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, chdtrc, stdtrit

#: Of every bound and interval. One in a hundred comparisons of two equal devices would be wrong at most.
CONFIDENCE = 0.99


class Interval(NamedTuple):
    """An estimate, and the range that holds the true value with `CONFIDENCE`."""

    value: float
    low: float
    high: float


def minimum_samples(quantile: float, confidence: float = CONFIDENCE) -> int:
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


def upper_bound(values: NDArray[Any], quantile: float, confidence: float = CONFIDENCE) -> float | None:
    """What the true quantile doesn't exceed, with this confidence; None if there are too few values for a bound.

    The bound is one of the values: the first in ascending order below which fewer than all of the quantile's share may lie.
    MLPerf's early stopping rests on the same binomial distribution.
    """
    rank = _rank(len(values), quantile, confidence)
    return None if rank is None else float(np.partition(values, rank - 1)[rank - 1])


def lower_bound(values: NDArray[Any], quantile: float, confidence: float = CONFIDENCE) -> float | None:
    """What the true quantile isn't below, with this confidence; None if there are too few values for a bound."""
    bound = upper_bound(-np.asarray(values, np.float64), 1 - quantile, confidence)
    return None if bound is None else -bound


def allowed_exceedances(count: int, quantile: float, confidence: float = CONFIDENCE) -> int:
    """Of `count` values, how many may exceed a limit for the quantile to keep it with this confidence; -1 if none suffices."""
    rank = _rank(count, quantile, confidence)
    return -1 if rank is None else count - rank


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The mean of independent measurements with Student's interval; None of fewer than two."""
    if len(values) < 2:
        return None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * spread / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Interval | None:
    """The geometric mean of the paired ratios, with its interval; None of fewer than two pairs.

    What slows both values of a pair cancels out, so pair what was measured close together.
    """
    logs = [math.log(above / below) for above, below in zip(numerators, denominators, strict=True)]
    found = mean_interval(logs)
    return None if found is None else Interval(*(math.exp(value) for value in found))


def pairs_needed(ratios: Interval, pairs: int, margin: float) -> int | None:
    """How many pairs would tell whether the ratio is within `margin` of 1, if they scatter as those so far.

    None if no number would: it is the margin itself. The interval shrinks with the root of the number of pairs.
    """
    distance = abs(abs(math.log(ratios.value)) - math.log(1 + margin))
    if distance <= 0:
        return None
    reach = math.log(ratios.high / ratios.low) / 2
    return max(pairs + 1, math.ceil(pairs * (reach / distance) ** 2))


def median(values: NDArray[Any]) -> float | None:
    """The median of any number of values; None of no values."""
    return float(np.median(values)) if len(values) else None


def per_second(count: int, duration_s: float) -> float:
    """The rate of `count` events in a window; 0 if the window is empty."""
    return count / duration_s if duration_s > 0 else 0.0


def differ_by_chance(counts: Sequence[int], scatter: float = 1.0) -> bool:
    """Whether equal rates could have given these counts of events in equal times (a chi-squared test at 0.1 %).

    Args:
        scatter: standard deviation of the time between two events, in means. Independent events have 1; where it is greater,
            a few long times make counts vary more.
    """
    mean = sum(counts) / len(counts)
    if mean == 0:
        return True
    chi_squared = sum((count - mean) ** 2 for count in counts) / (mean * max(1.0, scatter**2))
    return bool(chdtrc(len(counts) - 1, chi_squared) > 0.001)


def _rank(count: int, quantile: float, confidence: float) -> int | None:
    """The smallest 1-based rank whose value the quantile doesn't exceed with this confidence; None if not even the last."""
    if count == 0 or 1 - quantile**count < confidence - 1e-12:
        return None
    low, high = 1, count  # the probability that fewer than `rank` of the values lie below the quantile grows with the rank
    while low < high:
        middle = (low + high) // 2
        if bdtr(middle - 1, count, quantile) >= confidence:
            high = middle
        else:
            low = middle + 1
    return low
