"""How much load a policy carries: goodput as the load of a scenario grows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from simulation.run_all import FIRST_IDLE, OURS, PLAIN, THRESHOLD, played
from simulation.scenarios import Scenario
from simulation.service import SIZES, Saved
from simulation.simulation import Machine

#: Who is swept, and the loads at which everybody is; in between they are where somebody ceases to carry it.
SWEPT = ("GPU only", "shortest queue", FIRST_IDLE, PLAIN, THRESHOLD, OURS)
LOADS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
HALVINGS = 3
#: A load is carried while so many of all requests are in time.
ENOUGH = 0.95


@dataclass(frozen=True)
class Point:
    """A policy under a load: the share of all requests that was in time."""

    scenario: str
    policy: str
    load: float
    in_time: float


def sweep(scenario: Scenario, cpu: Mapping[str, Saved], number: int, seed: str) -> Iterator[Point]:
    """Each policy under growing loads, and closer to where it ceases to carry them; at each load the same requests for all."""
    machine = Machine(cpu, scenario.gpu, scenario.cpu_factor)

    def point(policy: str, load: float) -> Point:
        return Point(scenario.name, policy, load, played(scenario.at(load), machine, policy, number, seed).in_time)

    for policy in SWEPT:
        points = [point(policy, load) for load in LOADS]
        for _ in range(HALVINGS):
            points.sort(key=lambda each: each.load)
            if (bracket := _ceases(points)) is None:
                break
            points.append(point(policy, sum(each.load for each in bracket) / 2))
        yield from sorted(points, key=lambda each: each.load)


def carried(points: Sequence[Point]) -> float:
    """The load of a scenario up to which one policy has `ENOUGH` in time, between the points in proportion.

    The first point's if even that is too much, and the last one's if nothing is: bounds, then.
    """
    if points[0].in_time < ENOUGH:
        return points[0].load
    if (bracket := _ceases(points)) is None:
        return points[-1].load
    below, above = bracket
    return below.load + (above.load - below.load) * (below.in_time - ENOUGH) / (below.in_time - above.in_time)


def most(scenario: Scenario, cpu: Mapping[str, Saved]) -> float:
    """The load up to which enough could be in time if no device were ever idle and every run of the best size.

    Infinite where requests differ, because a policy may then keep the cheap ones.
    """
    if len({(stream.model, rows) for stream in scenario.streams for rows in stream.sizes}) > 1:
        return math.inf
    machine, model = Machine(cpu, scenario.gpu, scenario.cpu_factor), scenario.streams[0].model
    truths = [device.truths[model] for device in machine.devices("").values()]
    fastest_per_s = sum(max(rows / truth.median_us(rows) * 1e6 for rows in SIZES) for truth in truths)
    return fastest_per_s / scenario.at(1.0).rows_per_s(machine) / ENOUGH


def _ceases(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The first two neighbours between which a policy ceases to have enough in time."""
    return next((pair for pair in pairwise(points) if pair[0].in_time >= ENOUGH > pair[1].in_time), None)
