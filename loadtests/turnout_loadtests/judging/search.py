"""The search for a device's capacity: the greatest rate at which it keeps the latency target, by doubling and bisection."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID, LIMITED, Cell
from turnout_loadtests.judging.validity import DISTURBED, MIN_ACHIEVED, WRONG_DEVICE
from turnout_loadtests.statistics import allowed_exceedances

#: The search ends once the least rate that fails is within this of the greatest that is kept.
RESOLUTION = 0.05
#: A rate counts as kept if it was kept this often and never missed.
AGREEING = 2
MAX_TRIALS = 18
START_SHARE = 0.25
#: Of a device that is too slow for the start rate: how often it is halved.
MAX_HALVINGS = 5
#: How the reasons of a cell begin that aren't about how fast its device is.
NOT_ITS_FAULT = (DISTURBED, WRONG_DEVICE)
#: Requests of a trial: with 662, one may miss a p99 target; the least number, 459, would allow none.
TRIAL_REQUESTS = 662
LEAST_REQUESTS = 459
#: Requests that arrive at random may be fewer than expected.
SPARE = 1.1


@dataclass(frozen=True)
class Trial:
    """One load at one rate, and whether the device kept the target; None if that can't be told."""

    rate_per_s: float
    kept: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Capacity:
    """How many requests per second a device carries within a latency target.

    Attributes:
        per_s: the greatest rate that was kept; 0 if the device misses the target even at low load, None if it isn't known.
        beyond_per_s: the least rate above it that was missed; None if none was, so that it may carry more. Where no rate was
            kept, all that is known is that it carries less than this.
        reason: what ended the search, or why there is no number.
    """

    model: str
    device: str
    batch: int
    target_ms: float
    per_s: float | None
    beyond_per_s: float | None = None
    trials: int = 0
    reason: str = ""


def next_rate(trials: Sequence[Trial], start_per_s: float) -> float | None:
    """The rate of the next trial; None once the search has ended."""
    told = [trial for trial in trials if trial.kept is not None]
    if len(trials) >= MAX_TRIALS or _untold_in_a_row(trials) >= AGREEING:
        return None
    if not told:
        return trials[-1].rate_per_s if trials else start_per_s
    low, high = bounds(told)
    if low is None:
        assert high is not None
        return high / 2 if high > start_per_s / 2**MAX_HALVINGS else None
    if high is None:
        return low * 2
    if high > low * (1 + RESOLUTION):
        return math.sqrt(low * high)
    return low if _kept_at(told, low) < AGREEING else None


def bounds(trials: Sequence[Trial]) -> tuple[float | None, float | None]:
    """The greatest rate below all missed ones that was kept, and the least that was missed."""
    missed = [trial.rate_per_s for trial in trials if trial.kept is False]
    high = min(missed, default=None)
    kept = [trial.rate_per_s for trial in trials if trial.kept and (high is None or trial.rate_per_s < high)]
    return max(kept, default=None), high


def kept(cell: Cell, target_ms: float) -> Trial:
    """Whether a device kept the target under this load.

    A miss counts only if it is the device's: not if others took its cores, senders were late, or another device answered.
    """
    rate, missed = cell.rate_per_s, _missed(cell, target_ms)
    if missed and cell.state != LIMITED and not any(reason.startswith(NOT_ITS_FAULT) for reason in cell.reasons):
        return Trial(rate, False, missed)
    if missed or cell.state == INVALID:
        return Trial(rate, None, "; ".join(filter(None, [*cell.reasons[:1], missed])))
    upper_ms = cell.response.p99_upper_ms
    if upper_ms is None:
        return Trial(rate, None, f"{cell.answers} answers are too few for a p99")
    return Trial(rate, True, f"p99 is at most {three_digits(upper_ms)} ms")


def _missed(cell: Cell, target_ms: float) -> str:
    """How a load missed the target; empty if it didn't, or nothing shows it."""
    if cell.stopped_early:
        return f"{_misses(cell)} of the first {cell.requests + cell.dropped} requests missed {target_ms:g} ms"
    if cell.dropped:
        return f"{cell.dropped} requests weren't sent: {cell.in_flight} were in flight"
    upper_ms, offered = cell.response.p99_upper_ms, cell.requests / cell.duration_s if cell.duration_s else 0.0
    if upper_ms is not None and upper_ms > target_ms:
        return f"p99 may be {three_digits(upper_ms)} ms"
    if upper_ms is not None and cell.state != INVALID and (cell.requests_per_s or 0.0) < MIN_ACHIEVED * offered:
        return f"{three_digits(cell.requests_per_s or 0.0)} of {three_digits(offered)} requests/s were answered"
    return ""


def trial_length_s(rate_per_s: float, least_s: float, most_s: float) -> float | None:
    """How long a trial at this rate takes; None if that is longer than it may."""
    wanted_s = max(least_s, TRIAL_REQUESTS / rate_per_s)
    if wanted_s <= most_s:
        return wanted_s
    return most_s if SPARE * LEAST_REQUESTS / rate_per_s <= most_s * (1 + 1e-9) else None


def start_rate(latency_s: float, longest_s: float) -> float:
    """The rate of the first trial: a quarter of what one request at a time brings, but enough for a p99 within this time."""
    return max(START_SHARE / max(1e-4, latency_s), SPARE * LEAST_REQUESTS / longest_s)


def misses_allowed(rate_per_s: float, duration_s: float) -> int:
    """How many requests of a trial may miss the target before it is clear that their p99 does."""
    expected = rate_per_s * duration_s
    return max(0, allowed_exceedances(math.ceil(expected + 3 * math.sqrt(expected)), 0.99))


def capacity_of(model: str, device: str, batch: int, target_ms: float, trials: Sequence[Trial]) -> Capacity:
    """What the trials of a search say."""
    told = [trial for trial in trials if trial.kept is not None]
    low, high = bounds(told)
    last = trials[-1].reason if trials else ""
    if low is None and high is None:
        return Capacity(model, device, batch, target_ms, None, trials=len(trials), reason=last or "no trial")
    if low is None:
        return Capacity(model, device, batch, target_ms, None, high, len(trials), f"{none_kept(high or 0.0)} ({last})")
    reason = "" if high is not None and high <= low * (1 + RESOLUTION) else f"ended early: {last}"
    return Capacity(model, device, batch, target_ms, low, high, len(trials), reason)


def none_kept(least_per_s: float) -> str:
    """What is known where no rate was kept."""
    return f"even the least rate that was tried, {three_digits(least_per_s)}/s, was missed; a lower one may be kept"


def _kept_at(trials: Sequence[Trial], rate_per_s: float) -> int:
    return sum(1 for trial in trials if trial.kept and trial.rate_per_s == rate_per_s)


def _untold_in_a_row(trials: Sequence[Trial]) -> int:
    count = 0
    for trial in reversed(trials):
        if trial.kept is not None:
            break
        count += 1
    return count


def _misses(cell: Cell) -> int:
    in_time = round((cell.goodput_per_s or 0.0) * cell.duration_s)
    return cell.requests + cell.dropped - in_time
