"""Trying other batch sizes now and then, because a size that isn't run can't show that it has become faster.

One that was measured while something else slowed the machine down would otherwise never be used again. It is the bandit
problem's exploration in its plainest form: seldom, and sooner again where the last time brought news.
"""

from collections.abc import Callable, Sequence

#: A trial after so many periods, if the last one brought no news: too seldom for a 99th percentile to show it.
SELDOM = 128
#: And if it did.
SOON = 16
#: By how much of itself an estimate has to change to be news.
NEWS = 0.05


class Exploration:
    """What one model version's runs on one device try. A period is some runs, after which it is asked again."""

    def __init__(self) -> None:
        self._wait = SOON
        self._turn = 0
        self._tried: tuple[int, float] | None = None

    def rows(self, best: int, others: Sequence[int], known_us: Callable[[int], float | None]) -> int:
        """The most rows of a run in the next period: nearly always `best`, else one of the others, which take turns.

        Args:
            known_us: what a run of so many rows is known to take.
        """
        if self._tried is not None:
            rows, before_us = self._tried
            news = abs((known_us(rows) or before_us) / before_us - 1) > NEWS
            self._wait = SOON if news else SELDOM
            self._turn += not news
            self._tried = None
        self._wait -= 1
        if self._wait > 0 or not others:
            return best
        rows = others[self._turn % len(others)]
        if (rows_us := known_us(rows)) is not None:
            self._tried = rows, rows_us
        return rows
