"""What a device carries within several latency targets, read from the loads of one search."""

from collections.abc import Iterable, Sequence

from turnout_loadtests.judging.cells import Cell
from turnout_loadtests.judging.search import Capacity, Trial, bounds, kept
from turnout_loadtests.sending.load import SERVER

#: Targets for p99 that a report shows beside the one that was asked for.
TARGETS_MS = (25.0, 50.0, 100.0, 250.0)
#: The target of a search if none was asked for: its trials tell about the tighter ones, too.
WIDEST_MS = TARGETS_MS[-1]


def shown_targets(asked_ms: float | None) -> list[float]:
    """The targets of a report, in ascending order."""
    return sorted({*TARGETS_MS, *([] if asked_ms is None else [asked_ms])})


def carried(cells: Iterable[Cell], searched: Sequence[Capacity], model: str, device: str, target_ms: float) -> Capacity | None:
    """What a device carries within a target: by its own search, else by all loads at a rate; None if neither tells.

    Between the greatest rate that was kept and the least that was missed nothing is known; both are in the answer. Loads of
    which none was missed don't tell.
    """
    mine = [each for each in searched if (each.model, each.device) == (model, device)]
    if exact := [each for each in mine if each.target_ms == target_ms]:
        return exact[0] if exact[0].per_s is not None else None
    loads = [each for each in cells if (each.model, each.device, each.scenario) == (model, device, SERVER)]
    trials = [trial for cell in loads if (trial := _trial(cell, target_ms)) is not None]
    if not trials:
        return None
    low, high = bounds(trials)
    if high is None:
        return None
    return Capacity(model, device, loads[0].batch, target_ms, low or 0.0, high, len(trials), "by the loads of another search")


def _trial(cell: Cell, target_ms: float) -> Trial | None:
    """What a load at a rate says of a target; None if it says nothing, as one that ended early for a tighter target."""
    if cell.stopped_early and (cell.target_ms is None or target_ms > cell.target_ms):
        return None
    trial = kept(cell, target_ms)
    return trial if trial.kept is not None else None
