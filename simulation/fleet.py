"""`python -m simulation.fleet`: a day of a fleet of CPU and GPU pods: one round robin over all against a pool for each model.

Each hour is simulated by a sample of some seconds, with as many pods as its load needs and empty queues at first. The pods are
servers with one device each, and queue and batch with the server's own code.
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from turnout_loadtests import environment
from turnout_server.scheduling.profiles import Profile

from simulation import fleet_report, service
from simulation.arrivals import Diurnal, Poisson, moments_s
from simulation.scenarios import ENCODER, MLP, ONE, RESNET, SEVERAL
from simulation.service import CPU, CPU_SPREAD, GPU, GPUS, PRICE_PER_HOUR, Saved
from simulation.simulated_device import (
    ANSWERED,
    Request,
    ServiceTime,
    SimulatedDevice,
    capacity_rows_per_s,
    deployment,
)
from simulation.simulation import simulate

HOURS = 24
#: The share of a pod's capacity that is planned for; the rest is for chance and for pods that start.
PLANNED_USE = 0.7
#: So that a pool outlives the loss of a pod.
LEAST_PODS = 2
#: The share of requests that must be answered by their deadline.
TARGET = 0.99
#: How far round robin's fleet is enlarged in search of the target.
FACTORS = (1.0, 1.5, 2.0, 4.0, 8.0)

#: By model, by kind of device.
Profiles = Mapping[str, Mapping[str, Saved]]


@dataclass(frozen=True)
class Demand:
    """A day's requests for one model.

    Attributes:
        rows_per_s: on average over the day; the peak, at noon, is 1.85 times that.
        sizes: by number of rows, the relative frequency of such requests.
    """

    model: str
    rows_per_s: float
    deadline_ms: float
    sizes: Mapping[int, float] = field(default_factory=lambda: ONE)

    def rows_per_s_at(self, hour: int) -> float:
        """The mean over an hour of the day."""
        shape, _ = Diurnal(days=1, swing=0.85).shape(HOURS, random.Random())
        return self.rows_per_s * shape(hour + 0.5)

    def requests(self, hour: int, seconds: float, seed: str) -> Iterator[Request]:
        """The requests of a sample of an hour, in the order of arrival."""
        random_ = random.Random(f"{seed}/{self.model}/{hour}")
        sizes, weights = list(self.sizes), list(self.sizes.values())
        mean_rows = sum(size * weight for size, weight in self.sizes.items()) / sum(weights)
        for at_s in moments_s(Poisson(), self.rows_per_s_at(hour) / mean_rows, seconds, random_):
            (rows,) = random_.choices(sizes, weights)
            yield Request(self.model, rows, at_s, at_s + self.deadline_ms * 1e-3)


DEMANDS = (
    Demand(MLP, 2000.0, 20.0, SEVERAL),
    Demand(RESNET, 300.0, 200.0),
    Demand(ENCODER, 450.0, 150.0),
)


class Verdict(NamedTuple):
    """What load tests say of a model: the cheaper kind of device that answers in time, and what a million rows cost on each."""

    device: str
    cost_per_million: Mapping[str, float]


class Pods(NamedTuple):
    """How many pods of each kind there are."""

    cpu: int
    gpu: int

    def scaled(self, factor: float) -> "Pods":
        return Pods(math.ceil(self.cpu * factor), math.ceil(self.gpu * factor))

    @property
    def price_per_hour(self) -> float:
        return self.cpu * PRICE_PER_HOUR[CPU] + self.gpu * PRICE_PER_HOUR[GPU]


@dataclass(frozen=True)
class Day:
    """The result of a day.

    Attributes:
        gpu: the kind of GPU that is assumed.
        factor: the pods, as a multiple of those that the pools have.
        price: of all pods over the day.
        in_time: the share of requests that were answered by their deadline.
        p50_ms, p99_ms: of the answered requests.
        most: the most pods of each kind in an hour.
    """

    gpu: str
    policy: str
    factor: float
    price: float
    in_time: float
    p50_ms: float
    p99_ms: float
    most: Pods


class RoundRobin:
    """Sends each request to the next pod of its model's pool."""

    sharing = None

    def __init__(self, pools: Mapping[str, Sequence[str]]) -> None:
        self._next = {model: cycle(pods) for model, pods in pools.items()}

    def choose(self, request: Request, devices: Mapping[str, SimulatedDevice], now_s: float) -> str:
        return next(self._next[request.model])


def profiles_of(gpu: str) -> Profiles:
    """The measured profiles of the CPU, and the assumed ones of a GPU."""
    cpu = service.cpu_profiles()
    return {CPU: cpu, GPU: service.assumed(GPUS[gpu], cpu)}


def verdict(demand: Demand, profiles: Profiles) -> Verdict:
    """The cheapest kind of device whose run of the largest request takes at most half of the deadline."""
    costs, in_time = {}, []
    for kind, by_model in profiles.items():
        costs[kind] = PRICE_PER_HOUR[kind] / 3600 / capacity_rows_per_s(by_model[demand.model]) * 1e6
        run_us = Profile.restored(by_model[demand.model]).predict_us(max(demand.sizes))
        if run_us is not None and run_us <= demand.deadline_ms * 1e3 / 2:
            in_time.append(kind)
    return Verdict(min(in_time or costs, key=lambda kind: costs[kind]), costs)


def pods_needed(demand: Demand, hour: int, saved: Saved) -> int:
    """The pods that a model needs in an hour on devices with this profile: its load by the capacity that is planned for."""
    return max(LEAST_PODS, math.ceil(demand.rows_per_s_at(hour) / (PLANNED_USE * capacity_rows_per_s(saved))))


def day(gpu: str, *, pools: bool, factor: float, seconds: float, seed: str) -> Day:
    """Simulates a day.

    Args:
        pools: whether each model has pods of its own, of its verdict's kind; otherwise all share all pods.
        factor: how many pods there are, as a multiple of what the pools need.
    """
    profiles = profiles_of(gpu)
    verdicts = {demand.model: verdict(demand, profiles) for demand in DEMANDS}
    ended: list[Request] = []
    fleets = []
    for hour in range(HOURS):
        counts = {each.model: pods_needed(each, hour, profiles[verdicts[each.model].device][each.model]) for each in DEMANDS}
        pods = _sum(counts, verdicts).scaled(factor)
        fleets.append(pods)
        devices = _devices(pods, profiles, gpu, f"{seed}/{hour}")
        policy = RoundRobin(_pools(counts, verdicts, devices) if pools else dict.fromkeys(counts, _mixed(devices)))
        sample = [request for demand in DEMANDS for request in demand.requests(hour, seconds, seed)]
        simulate(sorted(sample, key=lambda request: request.arrived_s), devices, policy)
        ended += sample
    took_ms = [(request.ended_s - request.arrived_s) * 1e3 for request in ended if request.outcome == ANSWERED]
    return Day(
        gpu,
        "a pool for each model" if pools else "one round robin",
        factor,
        sum(pods.price_per_hour for pods in fleets),
        sum(request.in_time for request in ended) / len(ended),
        float(np.percentile(took_ms, 50)),
        float(np.percentile(took_ms, 99)),
        Pods(max(pods.cpu for pods in fleets), max(pods.gpu for pods in fleets)),
    )


def days(gpu: str, seconds: float, seed: str) -> Iterator[Day]:
    """The pools' day, round robin with the same pods, and round robin with as many as it needs to meet the target."""
    yield day(gpu, pools=True, factor=1.0, seconds=seconds, seed=seed)
    for factor in FACTORS:
        found = day(gpu, pools=False, factor=factor, seconds=seconds, seed=seed)
        if factor == 1.0 or found.in_time >= TARGET or factor == FACTORS[-1]:
            yield found
        if found.in_time >= TARGET:
            return


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m simulation.fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each hour that are simulated (3)")
    parser.add_argument("--seed", default="1", help="seed of arrivals and service times (1)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "results")
    chosen = parser.parse_args(arguments)
    rows: list[Day] = []
    for gpu in GPUS:
        for found in days(gpu, chosen.seconds, chosen.seed):
            rows.append(found)
            print(
                f"{gpu} GPU, {found.policy} x {found.factor:g}: {found.in_time:.1%} in time, {found.price:.2f}", file=sys.stderr
            )
    verdicts = {gpu: {each.model: verdict(each, profiles_of(gpu)) for each in DEMANDS} for gpu in GPUS}
    versions = environment.describe(("turnout", "numpy")).versions
    about = {
        "command": f"python -m simulation.fleet --seconds {chosen.seconds:g} --seed {chosen.seed}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    print(fleet_report.write(chosen.output, about, [asdict(demand) for demand in DEMANDS], verdicts, rows))


def _sum(counts: Mapping[str, int], verdicts: Mapping[str, Verdict]) -> Pods:
    """The pods of all models by kind."""
    by_kind = {kind: sum(counts[model] for model in counts if verdicts[model].device == kind) for kind in (CPU, GPU)}
    return Pods(by_kind[CPU], by_kind[GPU])


def _pools(counts: Mapping[str, int], verdicts: Mapping[str, Verdict], names: Iterable[str]) -> dict[str, list[str]]:
    """Each model's own pods."""
    free = {kind: [name for name in names if name.startswith(kind)] for kind in (CPU, GPU)}
    return {model: [free[verdicts[model].device].pop() for _ in range(count)] for model, count in counts.items()}


def _mixed(names: Iterable[str]) -> list[str]:
    """All pods in no particular order, as a name service lists addresses."""
    mixed = list(names)
    random.Random("order").shuffle(mixed)
    return mixed


def _devices(pods: Pods, profiles: Profiles, gpu: str, seed: str) -> dict[str, SimulatedDevice]:
    """Idle pods, by name."""
    devices = {}
    for kind, count, spread in ((CPU, pods.cpu, CPU_SPREAD), (GPU, pods.gpu, GPUS[gpu].spread)):
        for number in range(count):
            name = f"{kind}/{number}"
            devices[name] = SimulatedDevice(
                name,
                {model: deployment(model, name, saved) for model, saved in profiles[kind].items()},
                {model: ServiceTime(Profile.restored(saved), spread) for model, saved in profiles[kind].items()},
                random.Random(f"{seed}/{name}"),
            )
    return devices


if __name__ == "__main__":
    main()
