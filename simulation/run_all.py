"""Every policy in every scenario."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from turnout_server.scheduling import routing

from simulation.figures import Figures, figures
from simulation.policies import FirstIdle, Only, Policy, Random, ShortestQueue, Threshold, Turnout
from simulation.scenarios import Scenario
from simulation.service import CPU, GPU, Saved
from simulation.simulation import Machine, play

#: What the target is about, and what it is compared with.
OURS, FIRST_IDLE, PLAIN, THRESHOLD = "Turnout", "first idle", "first idle, plain queue", "size threshold"

#: Made anew for each scenario, because some remember; by name, with the seed.
POLICIES: dict[str, Callable[[str], Policy]] = {
    "CPU only": lambda seed: Only(CPU),
    "GPU only": lambda seed: Only(GPU),
    "random": Random,
    "shortest queue": lambda seed: ShortestQueue(),
    FIRST_IDLE: lambda seed: FirstIdle(drops_late=True),
    PLAIN: lambda seed: FirstIdle(drops_late=False),
    OURS: lambda seed: Turnout(),
    "Turnout, cost": lambda seed: Turnout(routing.COST),
    "Turnout, energy": lambda seed: Turnout(routing.ENERGY),
    "Turnout, inconsiderate": lambda seed: Turnout(considerate=False),
    "Turnout, admits all": lambda seed: Turnout(admits_all=True),
}
RIVALS = ("CPU only", "GPU only", "random", "shortest queue", FIRST_IDLE, PLAIN, THRESHOLD)


def run_all(scenario: Scenario, cpu: Mapping[str, Saved], number: int, seed: str) -> Iterator[Figures]:
    """Every policy against the same requests, about so many."""
    machine = Machine(cpu, scenario.gpu, scenario.cpu_factor)
    for name in (*POLICIES, THRESHOLD):
        yield played(scenario, machine, name, number, seed)


def played(scenario: Scenario, machine: Machine, name: str, number: int, seed: str) -> Figures:
    """One policy; the size threshold with the thresholds that suit these requests best."""
    if name == THRESHOLD:
        return _best_threshold(scenario, machine, number, seed)
    return _played(scenario, machine, POLICIES[name](seed), name, number, seed)


def _played(scenario: Scenario, machine: Machine, policy: Policy, name: str, number: int, seed: str) -> Figures:
    requests = scenario.requests(machine, number, seed)
    devices = machine.devices(f"{seed}/{scenario.name}", policy.sharing)
    play(requests, devices, policy)
    return figures(scenario.name, name, requests, devices)


def _best_threshold(scenario: Scenario, machine: Machine, number: int, seed: str) -> Figures:
    """Climbs from everything on the GPU, one model at a time, twice; judged by the very requests it is then compared on."""
    sizes: dict[str, set[int]] = {}
    for stream in scenario.streams:
        sizes.setdefault(stream.model, set()).update(stream.sizes)
    chosen: dict[str, float] = dict.fromkeys(sizes, 1.0)
    best = _played(scenario, machine, Threshold(chosen), THRESHOLD, number, seed)
    for model in [*sizes, *sizes] if len(sizes) > 1 else sizes:
        for rows in _thresholds(sorted(sizes[model])):
            tried = chosen | {model: rows}
            if tried != chosen:
                found = _played(scenario, machine, Threshold(tried), THRESHOLD, number, seed)
                best, chosen = (found, tried) if found.in_time > best.in_time else (best, chosen)
    return best


def _thresholds(sizes: Sequence[int]) -> list[float]:
    """Every threshold that parts these sizes differently; infinity is the CPU for all."""
    return [*sizes, math.inf]


def against(rows: Sequence[Figures], *rivals: str) -> float:
    """Turnout's goodput in a scenario as a multiple of that of the best of these."""
    goodput = {row.policy: row.in_time for row in rows}
    return goodput[OURS] / max(goodput[rival] for rival in rivals)
