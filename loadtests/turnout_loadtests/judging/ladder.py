"""What a device carries within several latency targets, read from the loads of one search."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from turnout_loadtests.judging.cells import INVALID, LIMITED, Cell
from turnout_loadtests.judging.search import Capacity, Trial, bounds, kept, none_kept
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.sending.load import SERVER

#: Targets for p99 that a report shows beside the one that was asked for.
TARGETS_MS = (25.0, 50.0, 100.0, 250.0)
#: The target of a search if none was asked for: its trials tell about the tighter ones, too.
WIDEST_MS = TARGETS_MS[-1]
#: Up to this share of what one request at a time brings, a load is low: fewer than one request in a hundred finds another one
#: before it, so that no queue enters its p99.
LOW_LOAD = 0.01


def shown_targets(asked_ms: float | None) -> list[float]:
    """The targets of a report, in ascending order."""
    return sorted({*TARGETS_MS, *([] if asked_ms is None else [asked_ms])})


def carried(
    cells: Iterable[Cell],
    searched: Sequence[Capacity],
    model: str,
    device: str,
    target_ms: float,
    single: Summary | None = None,
) -> Capacity | None:
    """What a device carries within a target: by its own search, else by all loads at a rate; None if neither tells.

    Between the greatest rate that was kept and the least that was missed nothing is known; both are in the answer. Loads of
    which none was missed don't tell.

    Args:
        single: the device's SingleStream, by which a load is low, or the target missed even then.
    """
    mine = [each for each in searched if (each.model, each.device) == (model, device)]
    found = next((each for each in mine if each.target_ms == target_ms), None) or _by_loads(cells, model, device, target_ms)
    if found is None or found.per_s:
        return found
    missed = misses_at_low_load(found, single)  # results of an older Turnout have 0 wherever no rate was kept
    return replace(found, per_s=0.0 if missed else None)


def misses_at_low_load(capacity: Capacity, single: Summary | None) -> bool:
    """Whether a device that kept no rate misses the target however low the load is.

    It does if one request at a time misses it, or if a load did at which hardly any request waits for another.
    """
    if single is None or single.state == INVALID:
        return False
    p50_ms, missed_per_s = single.latency.p50_ms, capacity.beyond_per_s
    is_low = p50_ms is not None and missed_per_s is not None and missed_per_s * p50_ms / 1e3 <= LOW_LOAD
    return is_low or misses_alone(single, capacity.target_ms)


def misses_alone(single: Summary | None, target_ms: float) -> bool:
    """Whether one request at a time misses the target, even if the device is faster than measured by all of its headroom."""
    if single is None or single.state == INVALID or single.p99_lower_ms is None or single.headroom is None:
        return False
    return single.p99_lower_ms / single.headroom > target_ms


def keeps(load: Summary, target_ms: float) -> bool | None:
    """Whether a device kept the target in every round of a load at a rate; None if that can't be told.

    As with a trial of a search, a miss counts only if it is the device's.
    """
    upper_ms = load.latency.p99_upper_ms
    if load.overloaded:
        return False
    if load.state == INVALID or upper_ms is None:
        return None
    if upper_ms <= target_ms and not load.dropped and all(p99_ms <= target_ms for p99_ms in load.p99s.values()):
        return True
    return None if load.state == LIMITED else False


def _by_loads(cells: Iterable[Cell], model: str, device: str, target_ms: float) -> Capacity | None:
    """What all loads at a rate say of a target."""
    loads = [each for each in cells if (each.model, each.device, each.scenario) == (model, device, SERVER)]
    trials = [trial for cell in loads if (trial := _trial(cell, target_ms)) is not None]
    if not trials:
        return None
    low, high = bounds(trials)
    if high is None:
        return None
    reason = none_kept(high) if low is None else "by the loads of another search"
    return Capacity(model, device, loads[0].batch, target_ms, low, high, len(trials), reason)


def _trial(cell: Cell, target_ms: float) -> Trial | None:
    """What a load at a rate says of a target; None if it says nothing, as one that ended early for a tighter target."""
    if cell.stopped_early and (cell.target_ms is None or target_ms > cell.target_ms):
        return None
    trial = kept(cell, target_ms)
    return trial if trial.kept is not None else None
