"""Plays requests against devices in virtual time."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from turnout_server.scheduling.device_queue import Backlog
from turnout_server.scheduling.profiles import Profile

from benchmarks.routing.policies import Policy, Sharing
from benchmarks.routing.service import CPU, CPU_SPREAD, GPU, GPUS, Saved, assumed
from benchmarks.routing.station import REFUSED, Part, Request, Run, SharedTenant, Station, Truth, deployment


@dataclass(frozen=True)
class Machine:
    """A CPU and a GPU.

    Attributes:
        gpu: which assumed one.
        cpu_factor: how much longer the CPU's runs really take than they did when they were measured.
    """

    cpu: Mapping[str, Saved]
    gpu: str
    cpu_factor: float = 1.0

    @property
    def profiles(self) -> dict[str, Mapping[str, Saved]]:
        """By device, the preferred one for whoever doesn't care first, and model."""
        return {GPU: assumed(GPUS[self.gpu], self.cpu), CPU: self.cpu}

    def stations(self, seed: str, sharing: Sharing | None = None) -> dict[str, Station]:
        """Its devices, idle, each with all the models; with a queue each, or one for all."""
        spreads, factors = {GPU: GPUS[self.gpu].spread, CPU: CPU_SPREAD}, {GPU: 1.0, CPU: self.cpu_factor}
        stations = {
            name: Station(
                name,
                {model: deployment(model, name, saved) for model, saved in profiles.items()},
                {m: Truth(Profile.restored(saved), spreads[name], factors[name]) for m, saved in profiles.items()},
                random.Random(f"{seed}/{name}"),
            )
            for name, profiles in self.profiles.items()
        }
        if sharing is not None:
            backlog: Backlog[Part] = Backlog()
            shared = {
                model: SharedTenant(
                    {name: station.deployments[model] for name, station in stations.items()}, sharing.drops_late
                )
                for model in self.cpu
            }
            for station in stations.values():
                station.backlog, station.shared = backlog, shared
        return stations


def play(requests: Iterable[Request], stations: Mapping[str, Station], policy: Policy) -> None:
    """Has every request chosen a device for, queued, batched and run; afterwards all of them have ended."""
    ends: list[tuple[float, int, str, int, Run]] = []
    numbers = count()

    def start(now_s: float) -> None:
        for station in stations.values():
            for number, run in station.start(now_s):
                heappush(ends, (run.ends_s, next(numbers), station.name, number, run))

    def advance(until_s: float) -> None:
        while ends and ends[0][0] <= until_s:
            now_s, _, name, number, run = heappop(ends)
            stations[name].ended(number, run, now_s)
            start(now_s)

    for request in requests:
        now_s = request.arrived_s
        advance(now_s)
        chosen = policy.choose(request, stations, now_s)
        if chosen is None or stations[chosen].full:
            request.end(REFUSED, now_s)
        else:
            stations[chosen].enqueue(request, now_s)
            start(now_s)
    advance(float("inf"))
