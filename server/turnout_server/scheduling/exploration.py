"""Tries other batch sizes now and then, because a size that isn't used can't show that it has become faster.

Without this, a size that was measured while something else slowed the machine down would never be used again. It is plain
epsilon-greedy exploration of a bandit problem: rare, and more frequent after a trial that changed an estimate.
"""

from collections.abc import Callable, Sequence

#: Periods between trials if the last one changed little: too rare to show in a 99th percentile.
LONG_PAUSE = 128
#: Periods until the next trial if the last one changed its estimate.
SHORT_PAUSE = 16
#: The relative change of an estimate that counts as news.
NEWS = 0.05


class Exploration:
    """Decides which batch sizes one deployment tries. It is asked once per period, which is a few runs."""

    def __init__(self) -> None:
        self._pause = SHORT_PAUSE
        self._turn = 0
        self._tried: tuple[int, float] | None = None

    def rows(self, best: int, others: Sequence[int], known_us: Callable[[int], float | None]) -> int:
        """The batch size for the next period: nearly always `best`, otherwise one of `others` in turn.

        Args:
            known_us: the current estimate for a run of so many rows, in microseconds.
        """
        if self._tried is not None:
            rows, before_us = self._tried
            news = abs((known_us(rows) or before_us) / before_us - 1) > NEWS
            self._pause = SHORT_PAUSE if news else LONG_PAUSE
            self._turn += not news
            self._tried = None
        self._pause -= 1
        if self._pause > 0 or not others:
            return best
        rows = others[self._turn % len(others)]
        if (rows_us := known_us(rows)) is not None:
            self._tried = rows, rows_us
        return rows
