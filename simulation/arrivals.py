"""When requests come: rates that change over time, and the moments at which a Poisson process of such a rate has events."""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: The rate at a moment, as a multiple of its mean.
Shape = Callable[[float], float]


@dataclass(frozen=True)
class Poisson:
    """The same rate always."""

    def shape(self, duration_s: float, random_: random.Random) -> tuple[Shape, float]:
        """The rate over so many seconds, and the most it gets to; both as multiples of the mean."""
        return lambda at_s: 1.0, 1.0


@dataclass(frozen=True)
class Bursty:
    """Two rates that take turns, each for a random while (a Markov-modulated Poisson process).

    Attributes:
        peak: the higher rate, as a multiple of the mean.
        busy_s, calm_s: how long each lasts on average.
    """

    peak: float
    busy_s: float
    calm_s: float

    def shape(self, duration_s: float, random_: random.Random) -> tuple[Shape, float]:
        """See Poisson.shape. What the peaks take is missing between them, so that the mean is what it should be."""
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
    """A sine: so many days, whose rate swings by `swing` of the mean around it."""

    days: float
    swing: float

    def shape(self, duration_s: float, random_: random.Random) -> tuple[Shape, float]:
        """See Poisson.shape."""
        turn = 2 * math.pi * self.days / duration_s
        return lambda at_s: 1 - self.swing * math.cos(turn * at_s), 1 + self.swing


Arrivals = Poisson | Bursty | Diurnal


def moments_s(arrivals: Arrivals, rate_per_s: float, duration_s: float, random_: random.Random) -> Iterator[float]:
    """When requests come, `rate_per_s` of them a second on average: by thinning the arrivals of the highest rate there is."""
    shape, most = arrivals.shape(duration_s, random_)
    at_s = random_.expovariate(rate_per_s * most)
    while at_s < duration_s:
        if random_.random() * most < shape(at_s):
            yield at_s
        at_s += random_.expovariate(rate_per_s * most)
