"""Who comes to a device of late: how many a second, how urgent they are, and how long they can wait."""

import math
from collections.abc import Sequence
from typing import NamedTuple

#: Seconds after which one who came counts about a third as much.
RECENT_S = 1.0
#: From this priority on none is told from another: any number may come as one.
LOWEST_RANK = 8


class Comers(NamedTuple):
    """Some who come to a device.

    Attributes:
        per_s: how many a second.
        can_wait_us: what they can wait at most before it is too late for them; infinite where that is no matter.
    """

    per_s: float
    can_wait_us: float


class Arrivals:
    """Counts who comes, in few kinds: by priority, and by how long they can wait to a power of two.

    All of a kind count as patient as its most patient may be, so that nobody seems to be in more of a hurry than they are.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, float], tuple[float, float]] = {}  # how many, those of late most, and when the last came

    def add(self, now_s: float, priority: int, can_wait_s: float | None) -> None:
        """One more has come; without `can_wait_s` it is never too late."""
        can_wait_us = math.inf if can_wait_s is None else 1 << max(0, int(can_wait_s * 1e6)).bit_length()
        kind = rank(priority), can_wait_us
        self._kinds[kind] = 1.0 + _left(*self._kinds.get(kind, (0.0, now_s)), now_s), now_s

    def of_late(self, now_s: float, priority: int) -> Sequence[Comers]:
        """Those who are at least so urgent. For any thread."""
        least = rank(priority)
        return [
            Comers(_left(number, last_s, now_s) / RECENT_S, can_wait_us)
            for (urgency, can_wait_us), (number, last_s) in tuple(self._kinds.items())
            if urgency <= least
        ]


def rank(priority: int) -> int:
    """A priority among those that are told apart."""
    return min(priority, LOWEST_RANK)


def _left(number: float, last_s: float, now_s: float) -> float:
    """What is left of a count when its last was so long ago."""
    return number * math.exp(min(0.0, last_s - now_s) / RECENT_S)
