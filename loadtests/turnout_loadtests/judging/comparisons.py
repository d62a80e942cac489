"""Which of two devices does better, judged on ratios of rounds that were measured next to each other.

`undecided` is an answer: the interval of the ratio has to lie beyond the margin as a whole, with all that a busy sender may
have hidden on either side. Nothing is concluded from a cell that is invalid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.statistics import Interval, pairs_needed, ratio_interval

#: Devices closer than this count as equal.
MARGIN = 0.05
MIN_PAIRS = 3

BETTER, WORSE, SAME, UNDECIDED = "better", "worse", "same", "undecided"
THROUGHPUT, LATENCY, TAIL = "throughput", "latency", "tail"
#: How the reason begins where a ratio is undecided because of what measured it.
HELD_BACK = "senders or other work may have held back"


@dataclass(frozen=True)
class Comparison:
    """One device against another in one respect.

    Attributes:
        quantity: `throughput` (rows per second), `latency` (median) or `tail` (p99).
        ratio, low, high: first to second, with the interval; None where there is none. `low` and `high` are also None where
            one device may do better than measured by any factor.
        outcome: whether the first is better, worse, the same, or it is undecided.
        reason: why it is undecided, or on what it rests.
        pairs: rounds that both devices have.
    """

    model: str
    first: str
    second: str
    quantity: str
    outcome: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    reason: str = ""
    first_value: float | None = None
    second_value: float | None = None

    @property
    def decided(self) -> bool:
        """Whether it has an outcome other than undecided."""
        return self.outcome != UNDECIDED


def by_throughput(first: Summary, second: Summary) -> Comparison:
    """Compares rows per second; more is better."""
    return _compared(first, second, THROUGHPUT, first.rates, second.rates, first.key.batch / second.key.batch)


def by_latency(first: Summary, second: Summary) -> Comparison:
    """Compares the median latency; less is better."""
    return _compared(first, second, LATENCY, first.p50s, second.p50s, 1.0)


def by_tail(first: Summary, second: Summary) -> Comparison:
    """Compares p99; less is better. The answers of one round hang together, so rounds are compared, not their answers."""
    found = _compared(first, second, TAIL, first.p99s, second.p99s, 1.0)
    one, other = first.latency.p99_ms, second.latency.p99_ms
    few = [side for side in (first, second) if side.state != INVALID and side.latency.p99_ms is None]
    if few:
        reason = "; ".join(f"p99 needs 459 answers; {side.key.device} gave {side.answers}" for side in few)
        return replace(found, outcome=UNDECIDED, reason=reason, first_value=one, second_value=other)
    return replace(found, first_value=one, second_value=other)


def _compared(
    first: Summary, second: Summary, quantity: str, ones: dict[str, float], others: dict[str, float], scale: float
) -> Comparison:
    rounds = sorted(ones.keys() & others.keys(), key=int)
    model, names = first.key.model, (first.key.device, second.key.device)
    values = _mean([ones[r] for r in rounds]), _mean([others[r] for r in rounds])
    invalid = [side for side in (first, second) if side.state == INVALID]
    if invalid:
        why = "; ".join(f"{side.key.device}: {(side.reasons or ['no valid measurement'])[0]}" for side in invalid)
        return Comparison(model, *names, quantity, UNDECIDED, reason=why)
    if len(rounds) < MIN_PAIRS:
        why = f"{len(rounds)} rounds are valid on both devices, and it takes {MIN_PAIRS} or more"
        return Comparison(model, *names, quantity, UNDECIDED, pairs=len(rounds), reason=why)
    measured = ratio_interval([scale * ones[r] for r in rounds], [others[r] for r in rounds])
    assert measured is not None
    low, high = _widened(measured, first, second, quantity)
    return Comparison(
        model,
        *names,
        quantity,
        _outcome(low, high, more_is_better=quantity == THROUGHPUT),
        ratio=measured.value,
        low=low or None,
        high=high if math.isfinite(high) else None,
        pairs=len(rounds),
        reason=_why(low, high, measured, len(rounds), first, second),
        first_value=values[0],
        second_value=values[1],
    )


def _widened(measured: Interval, first: Summary, second: Summary, quantity: str) -> tuple[float, float]:
    """The interval of the true ratio: each device may do better than measured by its headroom."""
    one, other = (math.inf if side.headroom is None else side.headroom for side in (first, second))
    if quantity != THROUGHPUT:  # a time may be shorter, where a rate may be higher
        one, other = other, one
    return measured.low / other, measured.high * one


def _outcome(low: float, high: float, *, more_is_better: bool) -> str:
    if low > 1 + MARGIN:
        return BETTER if more_is_better else WORSE
    if high < 1 / (1 + MARGIN):
        return WORSE if more_is_better else BETTER
    return SAME if low >= 1 / (1 + MARGIN) and high <= 1 + MARGIN else UNDECIDED


def _why(low: float, high: float, measured: Interval, pairs: int, first: Summary, second: Summary) -> str:
    """Why a ratio with this interval is undecided, and what would decide it."""
    if _outcome(low, high, more_is_better=True) != UNDECIDED:
        return ""
    limited = [side for side in (first, second) if side.headroom is None or side.headroom > 1]
    decided = _outcome(measured.low, measured.high, more_is_better=True) != UNDECIDED
    if limited and (decided or not low or math.log(high / low) > 2 * math.log(measured.high / measured.low)):
        names = " and ".join(side.key.device for side in limited)
        return f"{HELD_BACK} {names}: use a quieter machine, more --client-processes, or both"
    needed = pairs_needed(measured, pairs, MARGIN)
    if needed is None:
        return f"the difference is about the {MARGIN:.0%} that count as none, and the rounds scatter more than that"
    return f"the rounds scatter too much; about {needed} rounds as these would tell"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
