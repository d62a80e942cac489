"""Tells a queue that stands, because more is offered than can be done, from one that a burst left and that is empty soon.

A queue that stands serves nobody: it keeps a device no busier than a short one, and everything in it waits. So requests wait
only a share of their time there, and the rest is refused at once. The idea is CoDel's (Nichols and Jacobson 2012): what counts
is the shortest wait over an interval, not the longest.
"""

#: A queue in which every request has waited longer than its share, for this long, stands.
INTERVAL_S = 1.0
#: It has come to its end when nobody waits and nobody was refused for this long.
CALM_S = 0.2
#: The share of the time until its deadline that a request may wait in a queue that stands.
SHARE = 0.2


def limit_us(deadline_us: float, run_us: float) -> float:
    """How long a request may wait in a queue that stands: a share of its time, but at least as long as a run."""
    return max(SHARE * deadline_us, run_us)


class StandingQueue:
    """Watches the requests with a deadline for one model on one device.

    Attributes:
        stands: whether the queue stands.
    """

    def __init__(self) -> None:
        self.stands = False
        self._since_s: float | None = None
        self._refused_s = float("-inf")

    def observe(self, now_s: float, wait_us: float, limit_us: float, *, refused: bool) -> None:
        """Takes in one request.

        Args:
            wait_us: how long it would wait.
            refused: whether it was refused because it would be too late.
        """
        if refused:
            self._refused_s = now_s
        if self.stands:
            if not wait_us and now_s - self._refused_s > CALM_S:
                self.stands, self._since_s = False, None
        elif wait_us <= limit_us:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        elif now_s - self._since_s > INTERVAL_S:
            self.stands = self._refused_s >= self._since_s
