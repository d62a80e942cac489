"""How much energy a device used in a window, from the best source there is, always with its name; never a guess.

A GPU is read from NVML, by way of the server's metrics; the CPU from RAPL if server and sender share a machine. What can't be
measured is modelled only from powers that the user or the server's settings state, and is then called modelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from turnout_loadtests.measuring.machine import text_of
from turnout_loadtests.quantities import PowerModel

NVML_COUNTER = "NVML energy counter"
NVML_POWER = "NVML power, integrated"
RAPL = "RAPL"
MODELLED = "modelled"
NOT_MEASURABLE = "not measurable here"
POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """The energy of one component in a window, and where the number comes from; None if there is no number."""

    joules: float | None = None
    source: str = NOT_MEASURABLE

    def watts(self, duration_s: float) -> float | None:
        """The mean power."""
        return None if self.joules is None or duration_s <= 0 else self.joules / duration_s


@dataclass(frozen=True)
class RaplCounter:
    """A counter of the processor's energy: where it is now, and where it begins again from zero."""

    microjoules: int
    range_microjoules: int


def read_rapl(root: Path = POWERCAP) -> dict[str, RaplCounter]:
    """The counters of the processor packages by their names; none if there are none, or if they can't be read."""
    found = {}
    for package in sorted(root.glob("*rapl:[0-9]")):
        energy, limit = (text_of(package / name).strip() for name in ("energy_uj", "max_energy_range_uj"))
        if energy.isdigit() and limit.isdigit():
            found[package.name] = RaplCounter(int(energy), int(limit))
    return found


def rapl_energy(before: Mapping[str, RaplCounter], after: Mapping[str, RaplCounter]) -> Energy:
    """What the packages used between two readings."""
    if not after or before.keys() != after.keys():
        return Energy()
    used = 0
    for name, end in after.items():
        difference = end.microjoules - before[name].microjoules
        used += difference if difference >= 0 else difference + end.range_microjoules + 1
    return Energy(used / 1e6, RAPL)


def gpu_energy(
    before_j: Mapping[str, float], after_j: Mapping[str, float], watts: Sequence[tuple[float, Mapping[str, float]]]
) -> Energy:
    """What the server's GPUs used together.

    Args:
        before_j, after_j: NVML's energy counters by UUID.
        watts: power by UUID with the time of each reading in seconds, for GPUs without a counter.
    """
    if after_j and before_j.keys() == after_j.keys():
        return Energy(sum(after_j[gpu] - before_j[gpu] for gpu in after_j), NVML_COUNTER)
    totals = [(at_s, sum(power.values())) for at_s, power in watts if power]
    if len(totals) < 2:
        return Energy()
    joules = sum((end_s - begin_s) * (one_w + next_w) / 2 for (begin_s, one_w), (end_s, next_w) in pairwise(totals))
    return Energy(joules, NVML_POWER)


def modelled(model: PowerModel | None, busy_share: float | None, duration_s: float, origin: str) -> Energy:
    """What a device would use whose power is this straight line; `origin` says who stated the line."""
    if model is None or busy_share is None:
        return Energy()
    watts = model.idle_w + busy_share * (model.max_w - model.idle_w)
    return Energy(watts * duration_s, f"{MODELLED}, {origin}")


def first_known(*candidates: Energy) -> Energy:
    """The first that has a number."""
    return next((each for each in candidates if each.joules is not None), Energy())
