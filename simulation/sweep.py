"""The load that each policy carries, found from its goodput at growing loads."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from simulation.run_all import FIRST_IDLE, OURS, PLAIN, THRESHOLD, run
from simulation.scenarios import Scenario
from simulation.service import SIZES, Saved
from simulation.simulation import Machine

#: The policies that are swept.
SWEPT = ("GPU only", "shortest queue", FIRST_IDLE, PLAIN, THRESHOLD, OURS)
#: The loads at which every policy is simulated, and how often the interval in which it stops carrying the load is then halved.
LOADS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
HALVINGS = 3
#: A policy carries a load if it answers this share of all requests in time.
CARRIED_SHARE = 0.95


@dataclass(frozen=True)
class Point:
    """The share of all requests that a policy answers in time at one load."""

    scenario: str
    policy: str
    load: float
    in_time: float


def sweep(scenario: Scenario, cpu: Mapping[str, Saved], number: int, seed: str) -> Iterator[Point]:
    """Yields the points of each policy, by load. At each load the requests are the same for all policies."""
    machine = Machine(cpu, scenario.gpu, scenario.cpu_factor)

    def point(policy: str, load: float) -> Point:
        return Point(scenario.name, policy, load, run(scenario.at(load), machine, policy, number, seed).in_time)

    for policy in SWEPT:
        points = [point(policy, load) for load in LOADS]
        for _ in range(HALVINGS):
            points.sort(key=lambda each: each.load)
            if (bracket := _limit_bracket(points)) is None:
                break
            points.append(point(policy, sum(each.load for each in bracket) / 2))
        yield from sorted(points, key=lambda each: each.load)


def carried_load(points: Sequence[Point]) -> float:
    """The highest load that one policy carries, interpolated between its points.

    It is only a bound if the policy doesn't carry the lowest load, which is then returned, or carries the highest one too.
    """
    if points[0].in_time < CARRIED_SHARE:
        return points[0].load
    if (bracket := _limit_bracket(points)) is None:
        return points[-1].load
    below, above = bracket
    return below.load + (above.load - below.load) * (below.in_time - CARRIED_SHARE) / (below.in_time - above.in_time)


def upper_bound(scenario: Scenario, cpu: Mapping[str, Saved]) -> float:
    """The load that a policy would carry if no device were ever idle and every run had the best size.

    Infinite if requests differ, because a policy may then answer the cheap ones only.
    """
    if len({(stream.model, rows) for stream in scenario.streams for rows in stream.sizes}) > 1:
        return math.inf
    machine, model = Machine(cpu, scenario.gpu, scenario.cpu_factor), scenario.streams[0].model
    times = [device.service_times[model] for device in machine.devices("").values()]
    fastest_per_s = sum(max(rows / time.median_us(rows) * 1e6 for rows in SIZES) for time in times)
    return fastest_per_s / scenario.at(1.0).rows_per_s(machine) / CARRIED_SHARE


def _limit_bracket(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The first two neighbours of which the policy carries one load and not the other; None if there are none."""
    return next((pair for pair in pairwise(points) if pair[0].in_time >= CARRIED_SHARE > pair[1].in_time), None)
