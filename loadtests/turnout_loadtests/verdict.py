"""Whether a model needs a GPU, in a sentence or two, from measured cells alone."""

from collections.abc import Sequence
from typing import NamedTuple

from turnout_loadtests.cells import CLIENT_LIMITED, Cell
from turnout_loadtests.formatting import three_digits, with_unit
from turnout_loadtests.results import Skipped, Verdict

SAME_WITHIN = 0.05  # one round can't tell a smaller difference from noise


class Pair(NamedTuple):
    """The cells of CPU and GPU with the same batch size and number of users."""

    cpu: Cell
    gpu: Cell

    @property
    def speedup(self) -> float:
        """The GPU's rows per second, as a multiple of the CPU's."""
        return self.gpu.rows_per_s / self.cpu.rows_per_s


def verdicts(models: Sequence[str], cells: Sequence[Cell], skipped: Sequence[Skipped]) -> list[Verdict]:
    """The verdict on each model, in the given order."""
    return [
        Verdict(
            model,
            verdict(
                [cell for cell in cells if cell.model == model],
                [gap.device for gap in skipped if gap.model == model],
            ),
        )
        for model in models
    ]


def verdict(cells: Sequence[Cell], unavailable: Sequence[str]) -> str:
    """The verdict on one model.

    Args:
        cells: all cells of the model.
        unavailable: the devices that it couldn't be measured on; the report gives the reasons.
    """
    answered = [cell for cell in cells if cell.rows_per_s > 0]
    cpu = [cell for cell in answered if _is(cell.device, "cpu")]
    gpu = [cell for cell in answered if _is(cell.device, "cuda")]
    if cpu and gpu:
        return _compared([Pair(c, g) for c in cpu for g in gpu if (c.batch, c.users) == (g.batch, g.users)])
    missing = _missing(cells, unavailable)
    if not answered:
        return f"Undecided: no request was answered{f' ({missing})' if missing else ''}."
    half = "CPU half only" if cpu else "GPU half only" if gpu else f"only {answered[0].device} was measured"
    return f"{f'{missing}: ' if missing else ''}{half} — {', '.join(map(_does, answered))}."


def _compared(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return "Undecided: the CPU and the GPU were measured under different loads."
    faster = [pair for pair in pairs if pair.speedup > 1 + SAME_WITHIN]
    if not faster:
        return f"The CPU is enough: the GPU is no faster at any load measured ({'; '.join(map(_sides, pairs))})."
    best = max(faster, key=lambda pair: pair.speedup)
    gain = f"The GPU is {_at_least(best.gpu)}{three_digits(best.speedup)} times as fast at {_sides(best)}."
    others = [pair for pair in pairs if pair not in faster]
    return gain + (f" It is no faster at {'; '.join(map(_sides, others))}." if others else "")


def _sides(pair: Pair) -> str:
    return (
        f"batch {pair.cpu.batch}: {three_digits(pair.gpu.rows_per_s)} rows/s against {three_digits(pair.cpu.rows_per_s)}, "
        f"p50 {with_unit(pair.gpu.service_p50_ms)} against {with_unit(pair.cpu.service_p50_ms)}"
    )


def _does(cell: Cell) -> str:
    how = f"p50 {with_unit(cell.service_p50_ms)}, {cell.users} users"
    return f"{_at_least(cell)}{three_digits(cell.rows_per_s)} rows/s at batch {cell.batch} ({how})"


def _at_least(cell: Cell) -> str:
    """`at least ` for a cell in which the sender was the limit, so that the server may be faster."""
    return "at least " if CLIENT_LIMITED in cell.flags else ""


def _missing(cells: Sequence[Cell], unavailable: Sequence[str]) -> str:
    gaps = [f"{device.upper()} not available" for device in unavailable]
    failed = {cell.device: cell.failures_by_code for cell in cells if not cell.rows_per_s}
    gaps += [f"{device} answered nothing ({', '.join(codes) or 'no request'})" for device, codes in failed.items()]
    return "; ".join(gaps)


def _is(device: str, kind: str) -> bool:
    return device.partition(":")[0] == kind
