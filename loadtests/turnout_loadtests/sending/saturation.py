"""How many users a server takes before it is saturated: a decision from what was answered so far."""

import math

#: How long each number of users stays, and how long after a change the answers don't count yet.
DWELL_S, SETTLE_S = 15.0, 3.0
#: Twice the users have to bring this much more throughput.
WORTHWHILE_GAIN = 1.05


class Saturation:
    """Doubles the users while that raises throughput."""

    def __init__(self) -> None:
        self._users, self._since_s = 1, 0.0
        self._counted_from: tuple[float, int] | None = None
        self._best_per_s = 0.0

    def users(self, now_s: float, answers: int, p99_ms: float | None, target_ms: float = math.inf) -> int | None:
        """The number of users now; None once more of them bring nothing, or the latency target is missed.

        Args:
            now_s: since the shape began.
            answers: all until now.
        """
        if now_s - self._since_s < SETTLE_S:
            return self._users
        if self._counted_from is None:
            self._counted_from = now_s, answers
        if now_s - self._since_s < DWELL_S:
            return self._users
        begin_s, before = self._counted_from
        rate_per_s = (answers - before) / (now_s - begin_s)
        if rate_per_s < WORTHWHILE_GAIN * self._best_per_s or (p99_ms or 0.0) > target_ms:
            return None
        self._best_per_s = max(self._best_per_s, rate_per_s)
        self._users, self._since_s, self._counted_from = self._users * 2, now_s, None
        return self._users
