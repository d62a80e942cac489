"""Recent arrivals at a device: how many per second, by urgency and by slack."""

import math
from collections.abc import Sequence
from typing import NamedTuple

#: Time constant of the exponential decay: an arrival of this age counts 1/e.
DECAY_S = 1.0
#: Priorities from this one on are counted together, because clients may send any number.
LOWEST_RANK = 8


class ArrivalRate(NamedTuple):
    """Arrivals of requests with similar slack.

    Attributes:
        per_s: requests per second.
        slack_us: how long such a request can wait before it misses its deadline; infinite without a deadline.
    """

    per_s: float
    slack_us: float


class Arrivals:
    """Counts arrivals in classes: by priority, and by slack rounded up to a power of two.

    Rounding up means that no request is counted as more urgent than it is.
    """

    def __init__(self) -> None:
        self._classes: dict[tuple[int, float], tuple[float, float]] = {}  # decayed count, and the time of the last arrival

    def add(self, now_s: float, priority: int, slack_s: float | None) -> None:
        """Counts one arrival; `slack_s` None means that it has no deadline."""
        slack_us = math.inf if slack_s is None else 1 << max(0, int(slack_s * 1e6)).bit_length()
        key = rank(priority), slack_us
        self._classes[key] = 1.0 + _decayed(*self._classes.get(key, (0.0, now_s)), now_s), now_s

    def recent(self, now_s: float, priority: int) -> Sequence[ArrivalRate]:
        """The arrival rates of requests that are at least this urgent. May be called from any thread."""
        least = rank(priority)
        return [
            ArrivalRate(_decayed(count, last_s, now_s) / DECAY_S, slack_us)
            for (urgency, slack_us), (count, last_s) in self._classes.copy().items()
            if urgency <= least
        ]


def rank(priority: int) -> int:
    """The class that a priority is counted in."""
    return min(priority, LOWEST_RANK)


def _decayed(count: float, last_s: float, now_s: float) -> float:
    return count * math.exp(min(0.0, last_s - now_s) / DECAY_S)
