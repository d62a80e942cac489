"""Whether requests run one after another on all cores of a CPU, or with a run on each core. No clock, thread or lock.

One run on all cores answers a lone request soonest. A run on each core gets more done where a model's nodes are hard to share
out, and where many requests are there it answers sooner, too: on 2 cores, two clients of an encoder in int8 had 1.3 times the
answers in 0.75 of the time (docs/results/frontend.md). So it is decided before each run, by how many requests are there.
"""

import math
from typing import NamedTuple

from turnout_server.scheduling import batching
from turnout_server.scheduling.entries import Way

#: The time constant of the mean of requests: what was so long ago counts 1/e.
MEMORY_S = 0.1
#: The most rows for each core that are tried; with more, the answer is the same.
MOST_ROWS = 4


class Crowd:
    """The mean number of requests that were there lately.

    Those of clients in a loop are gone for a moment after each answer, and the number of those that wait doesn't show them.
    """

    def __init__(self) -> None:
        self._mean, self._requests, self._since_s = 0.0, 0, 0.0

    def changed(self, now_s: float, requests: int) -> None:
        """From now on there are so many."""
        self._mean, self._requests, self._since_s = self.mean(now_s), requests, now_s

    def mean(self, now_s: float) -> float:
        """The mean over time, in which what was longer ago counts less."""
        faded = math.exp(min(0.0, self._since_s - now_s) / MEMORY_S)
        return self._mean * faded + self._requests * (1 - faded)


class Cores(NamedTuple):
    """The cores of a place that may each have a run.

    Attributes:
        number: all of them.
        free: how many runs may begin now.
        requests: how many requests are there or, by the mean of late, are likely to be back soon.
    """

    number: int = 0
    free: int = 0
    requests: int = 0


NO_CORES = Cores()


def least_requests(together: Way, per_core: Way, cores: int) -> int | None:
    """From how many requests of a row each on a run on each core has them done sooner than runs on all cores; None if never.

    A lone request is always run on all cores.
    """
    several = range(2, MOST_ROWS * cores + 1)
    return next((rows for rows in several if _is_sooner(rows, together, per_core, cores)), None)


def _is_sooner(rows: int, together: Way, per_core: Way, cores: int) -> bool:
    share = min(per_core.effective_max_batch, math.ceil(rows / cores))
    run_us = per_core.predict_us(share)
    if run_us is None:
        return False
    together_us = batching.runs_us(rows, together.effective_max_batch, together.predict_us)
    return run_us * max(1.0, rows / (share * cores)) < together_us
