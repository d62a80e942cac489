"""What readings of a server over many requests say: whether it grows."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: How much memory may grow over a million requests, and over ten thousand loads of a model, in MiB.
MAX_GROWTH_MIB = 5.0
PER_REQUESTS, PER_LOADS = 1_000_000, 10_000
#: The share of the readings after which caches and pools are taken to be full.
WARM = 0.25
#: How many more descriptors and threads the last readings may have than those after the warm-up; their number varies with
#: connections that come and go.
MAX_DESCRIPTORS, MAX_THREADS = 32, 8


@dataclass(frozen=True)
class Reading:
    """A server at one moment, with its processes.

    Attributes:
        requests: answered until then, or loads of a model, where those are what is repeated.
        at_s: since the start.
        rss_mib: resident memory.
    """

    requests: int
    at_s: float
    rss_mib: float
    descriptors: int
    threads: int


def warm(readings: Sequence[Reading]) -> Sequence[Reading]:
    """The readings that count."""
    return readings[int(WARM * len(readings)) :]


def growth_mib(readings: Sequence[Reading], per: int = PER_REQUESTS) -> float:
    """By how many MiB the memory grows over so many requests, by a line through the readings that count (least squares).

    Raises:
        ValueError: there are fewer than two of them, or none has more requests than the others.
    """
    counted = warm(readings)
    if len(counted) < 2:
        raise ValueError(f"{len(readings)} readings say nothing about growth")
    requests, memory = [each.requests for each in counted], [each.rss_mib for each in counted]
    try:
        return statistics.linear_regression(requests, memory).slope * per
    except statistics.StatisticsError:
        raise ValueError("there were no requests between the readings") from None


def problems(readings: Sequence[Reading], per: int = PER_REQUESTS) -> list[str]:
    """What grows, in words; empty if nothing does."""
    found, grown_mib = [], growth_mib(readings, per)
    if grown_mib > MAX_GROWTH_MIB:
        found.append(f"memory grows by {grown_mib:.1f} MiB per {per:,}, and {MAX_GROWTH_MIB:g} is allowed")
    counted = warm(readings)
    early, late = counted[: len(counted) // 3 + 1], counted[-(len(counted) // 3 + 1) :]
    for what, limit in (("descriptors", MAX_DESCRIPTORS), ("threads", MAX_THREADS)):
        before, after = (max(getattr(each, what) for each in part) for part in (early, late))
        if after > before + limit:
            found.append(f"{what} grow from {before} to {after}, and {limit} more are allowed")
    return found
