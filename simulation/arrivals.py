"""Arrivals: rates that change over time, and the events of a Poisson process with such a rate."""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Returns the rate at a moment, as a multiple of its mean.
Shape = Callable[[float], float]


@dataclass(frozen=True)
class Poisson:
    """A constant rate."""

    def shape(self, duration_s: float, random_: random.Random) -> tuple[Shape, float]:
        """The rate over `duration_s`, and its maximum, both as multiples of the mean."""
        return lambda at_s: 1.0, 1.0


@dataclass(frozen=True)
class Bursty:
    """A Markov-modulated Poisson process: a high and a low rate in turn, each for a random time.

    Attributes:
        peak: the high rate, as a multiple of the mean.
        busy_s, calm_s: the mean time of the high and of the low rate.
    """

    peak: float
    busy_s: float
    calm_s: float

    def shape(self, duration_s: float, random_: random.Random) -> tuple[Shape, float]:
        """See Poisson.shape. The low rate follows from the others, so that the mean is 1.

        Raises:
            ValueError: the peaks alone exceed the mean.
        """
        low = (self.busy_s + self.calm_s - self.peak * self.busy_s) / self.calm_s
        if low < 0:
            raise ValueError(f"peaks of {self.peak} for {self.busy_s} of {self.busy_s + self.calm_s} s exceed the mean")
        changes_s, at_s, busy = [], 0.0, False
        while at_s < duration_s:
            at_s += random_.expovariate(1 / (self.busy_s if busy else self.calm_s))
            changes_s.append(at_s)
            busy = not busy
        return lambda at: self.peak if bisect_right(changes_s, at) % 2 else low, self.peak


@dataclass(frozen=True)
class Diurnal:
    """A rate that follows a sine over `days` periods; `swing` is its amplitude, as a share of the mean."""

    days: float
    swing: float

    def shape(self, duration_s: float, random_: random.Random) -> tuple[Shape, float]:
        """See Poisson.shape."""
        turn = 2 * math.pi * self.days / duration_s
        return lambda at_s: 1 - self.swing * math.cos(turn * at_s), 1 + self.swing


Arrivals = Poisson | Bursty | Diurnal


def moments_s(arrivals: Arrivals, rate_per_s: float, duration_s: float, random_: random.Random) -> Iterator[float]:
    """Yields the moments of arrivals with a mean rate of `rate_per_s`, by thinning a Poisson process of the highest rate."""
    shape, most = arrivals.shape(duration_s, random_)
    at_s = random_.expovariate(rate_per_s * most)
    while at_s < duration_s:
        if random_.random() * most < shape(at_s):
            yield at_s
        at_s += random_.expovariate(rate_per_s * most)
