"""Runs all policies in a scenario."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from turnout_server.scheduling import routing

from simulation.policies import FirstIdle, Only, Policy, Random, ShortestQueue, Threshold, Turnout
from simulation.results import Result, result_of
from simulation.scenarios import Scenario
from simulation.service import CPU, GPU, Saved
from simulation.simulation import Machine, simulate

#: The policy that the target is for, and some that it is compared with.
OURS, FIRST_IDLE, PLAIN, THRESHOLD = "Turnout", "first idle", "first idle, plain queue", "size threshold"

#: By name, functions of the seed: policies have state, so each scenario needs new ones.
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
    "Turnout, ignores others": lambda seed: Turnout(weighs_others=False),
    "Turnout, admits all": lambda seed: Turnout(admits_all=True),
}
BASELINES = ("CPU only", "GPU only", "random", "shortest queue", FIRST_IDLE, PLAIN, THRESHOLD)


def run_all(scenario: Scenario, cpu: Mapping[str, Saved], number: int, seed: str) -> Iterator[Result]:
    """Yields the result of every policy under the same requests, about `number` of them."""
    machine = Machine(cpu, scenario.gpu, scenario.cpu_factor)
    for name in (*POLICIES, THRESHOLD):
        yield run(scenario, machine, name, number, seed)


def run(scenario: Scenario, machine: Machine, name: str, number: int, seed: str) -> Result:
    """The result of one policy; of the size threshold, with the thresholds that are best for these requests."""
    if name == THRESHOLD:
        return _best_threshold(scenario, machine, number, seed)
    return _run(scenario, machine, POLICIES[name](seed), name, number, seed)


def _run(scenario: Scenario, machine: Machine, policy: Policy, name: str, number: int, seed: str) -> Result:
    requests = scenario.requests(machine, number, seed)
    devices = machine.devices(f"{seed}/{scenario.name}", policy.sharing)
    simulate(requests, devices, policy)
    return result_of(scenario.name, name, requests, devices)


def _best_threshold(scenario: Scenario, machine: Machine, number: int, seed: str) -> Result:
    """The result with the best thresholds found by coordinate ascent, twice over the models, from everything on the GPU.

    They are tuned on the same requests that the policies are compared on, which favours this policy.
    """
    sizes: dict[str, set[int]] = {}
    for stream in scenario.streams:
        sizes.setdefault(stream.model, set()).update(stream.sizes)
    chosen: dict[str, float] = dict.fromkeys(sizes, 1.0)
    best = _run(scenario, machine, Threshold(chosen), THRESHOLD, number, seed)
    for model in [*sizes, *sizes] if len(sizes) > 1 else sizes:
        for rows in _thresholds(sorted(sizes[model])):
            tried = chosen | {model: rows}
            if tried != chosen:
                found = _run(scenario, machine, Threshold(tried), THRESHOLD, number, seed)
                best, chosen = (found, tried) if found.in_time > best.in_time else (best, chosen)
    return best


def _thresholds(sizes: Sequence[int]) -> list[float]:
    """The thresholds that divide these sizes differently; infinity sends all requests to the CPU."""
    return [*sizes, math.inf]


def relative_goodput(rows: Sequence[Result], others: Sequence[str]) -> float:
    """Turnout's goodput in a scenario, as a multiple of the best of other policies."""
    goodput = {row.policy: row.in_time for row in rows}
    return goodput[OURS] / max(goodput[other] for other in others)
