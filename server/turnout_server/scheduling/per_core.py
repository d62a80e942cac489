"""Whether requests run one after another on all cores of a CPU, or with a run on each core. Pure functions.

One run on all cores answers a lone request soonest. A run on each core gets more done where a model's nodes are hard to share
out, and where many are there it answers sooner, too: on 2 cores, four clients of an encoder in int8 had 1.4 times the answers
in 0.7 of the time (docs/results/frontend.md). So it is decided before each run, by how many requests are there.
"""

import math
from collections import deque
from typing import NamedTuple

from turnout_server.scheduling import batching
from turnout_server.scheduling.entries import Way

#: Requests that come back as soon as they are answered, as those of clients in a loop do, are seen by what so many met.
ARRIVALS = 4
#: What gets more done with so many rows for each core does with any number.
MOST_ROWS = 4


class Crowd:
    """How many requests there are at the least, as the last few that arrived have seen it."""

    def __init__(self) -> None:
        self._met: deque[int] = deque([0] * ARRIVALS, maxlen=ARRIVALS)

    def add(self, requests: int) -> None:
        """One more has arrived, and now there are so many."""
        self._met.append(requests)

    def least(self) -> int:
        """How many there were whenever one of the last few arrived; 1 if one of these was alone."""
        return min(self._met)


class Cores(NamedTuple):
    """The cores of a place that may each have a run.

    Attributes:
        number: all of them.
        free: those that may begin a run now.
        requests: how many requests wait for the place, run on a core, or are likely to be back soon.
    """

    number: int = 0
    free: int = 0
    requests: int = 0


def least_rows(together: Way, per_core: Way, cores: int) -> int | None:
    """From how many rows on a run on each core has them done sooner than runs on all cores; None if it never has.

    A lone row is always run on all cores.
    """
    least = None
    for rows in range(MOST_ROWS * cores, 1, -1):
        if not _is_sooner(rows, together, per_core, cores):
            break
        least = rows
    return least


def _is_sooner(rows: int, together: Way, per_core: Way, cores: int) -> bool:
    share = min(per_core.effective_max_batch, math.ceil(rows / cores))
    run_us = per_core.predict_us(share)
    if run_us is None:
        return False
    together_us = batching.runs_us(rows, together.effective_max_batch, together.predict_us)
    return run_us * max(1.0, rows / (share * cores)) < together_us
