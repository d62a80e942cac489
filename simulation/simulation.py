"""Simulates devices and a policy in virtual time, event by event."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from turnout_server.scheduling.device_queue import DeviceQueue
from turnout_server.scheduling.profiles import Profile

from simulation.policies import Policy, Sharing
from simulation.service import CPU, CPU_SPREAD, GPU, GPUS, Saved, assumed
from simulation.simulated_device import REFUSED, Chunk, Request, Run, ServiceTime, SharedTenant, SimulatedDevice, deployment


@dataclass(frozen=True)
class Machine:
    """A CPU and a GPU.

    Attributes:
        cpu: the CPU's profiles, by model.
        gpu: the name of an assumed GPU.
        cpu_factor: the true times of the CPU's runs, as a multiple of its profiles.
    """

    cpu: Mapping[str, Saved]
    gpu: str
    cpu_factor: float = 1.0

    @property
    def profiles(self) -> dict[str, Mapping[str, Saved]]:
        """The profiles by device and model; the device that is preferred among equals comes first."""
        return {GPU: assumed(GPUS[self.gpu], self.cpu), CPU: self.cpu}

    def devices(self, seed: str, sharing: Sharing | None = None) -> dict[str, SimulatedDevice]:
        """Idle devices with all models; each has its own queue, or all share one."""
        spreads, factors = {GPU: GPUS[self.gpu].spread, CPU: CPU_SPREAD}, {GPU: 1.0, CPU: self.cpu_factor}
        devices = {
            name: SimulatedDevice(
                name,
                {model: deployment(model, name, saved) for model, saved in profiles.items()},
                {m: ServiceTime(Profile.restored(saved), spreads[name], factors[name]) for m, saved in profiles.items()},
                random.Random(f"{seed}/{name}"),
            )
            for name, profiles in self.profiles.items()
        }
        if sharing is not None:
            device_queue: DeviceQueue[Chunk] = DeviceQueue()
            shared = {
                model: SharedTenant({name: device.deployments[model] for name, device in devices.items()}, sharing.drops_late)
                for model in self.cpu
            }
            for device in devices.values():
                device.device_queue, device.shared = device_queue, shared
        return devices


def simulate(requests: Iterable[Request], devices: Mapping[str, SimulatedDevice], policy: Policy) -> None:
    """Routes, queues, batches and runs all requests; afterwards each has an outcome.

    Args:
        requests: in the order of arrival.
    """
    ends: list[tuple[float, int, int, Run]] = []
    numbers = count()

    def start(now_s: float) -> None:
        for device in devices.values():
            for number, run in device.start(now_s):
                heappush(ends, (run.ends_s, next(numbers), number, run))

    def advance(until_s: float) -> None:
        while ends and ends[0][0] <= until_s:
            now_s, _, number, run = heappop(ends)
            devices[run.device].ended(number, run, now_s)
            start(now_s)

    for request in requests:
        now_s = request.arrived_s
        advance(now_s)
        chosen = policy.choose(request, devices, now_s)
        if chosen is None or devices[chosen].full:
            request.end(REFUSED, now_s)
        else:
            devices[chosen].enqueue(request, now_s)
            start(now_s)
    advance(float("inf"))
