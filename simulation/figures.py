"""What became of the requests of a scenario under a policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulation.service import BUSY_W, IDLE_W, PRICE_PER_HOUR
from simulation.simulated_device import ANSWERED, EXPIRED, REFUSED, Request, SimulatedDevice


@dataclass(frozen=True)
class Figures:
    """A policy in a scenario. Shares are of all requests.

    Attributes:
        in_time: the share that was answered by its deadline.
        goodput_per_s: the same in requests a second.
        late, refused, expired: the other shares.
        worst_stream: `in_time` of the stream for which that is lowest.
        p50_ms, p99_ms: of those answered.
        cost_per_million: of a million in time, by the time that devices were busy.
        energy_j: of one in time, beyond what the devices draw idle.
        shares: of those answered, by device.
        busy: the share of the time that each device was.
    """

    scenario: str
    policy: str
    requests: int
    in_time: float
    goodput_per_s: float
    late: float
    refused: float
    expired: float
    worst_stream: float
    p50_ms: float
    p99_ms: float
    cost_per_million: float
    energy_j: float
    shares: Mapping[str, float]
    busy: Mapping[str, float]


def figures(scenario: str, policy: str, requests: Sequence[Request], devices: Mapping[str, SimulatedDevice]) -> Figures:
    """Counts."""
    number = len(requests)
    outcomes = {name: sum(request.outcome == name for request in requests) for name in (ANSWERED, EXPIRED, REFUSED)}
    in_time = sum(request.in_time for request in requests)
    answered = [request for request in requests if request.outcome == ANSWERED]
    took_ms = [(request.ended_s - request.arrived_s) * 1e3 for request in answered] or [0.0]
    duration_s = requests[-1].arrived_s
    price = sum(device.busy_s / 3600 * PRICE_PER_HOUR[name] for name, device in devices.items())
    energy_j = sum(device.busy_s * (BUSY_W[name] - IDLE_W[name]) for name, device in devices.items())
    streams = {request.stream for request in requests}
    return Figures(
        scenario,
        policy,
        number,
        in_time / number,
        in_time / duration_s,
        (outcomes[ANSWERED] - in_time) / number,
        outcomes[REFUSED] / number,
        outcomes[EXPIRED] / number,
        min(_in_time([request for request in requests if request.stream == stream]) for stream in streams),
        float(np.percentile(took_ms, 50)),
        float(np.percentile(took_ms, 99)),
        price / max(1, in_time) * 1e6,
        energy_j / max(1, in_time),
        {name: sum(request.device == name for request in answered) / max(1, len(answered)) for name in devices},
        {name: device.busy_s / duration_s for name, device in devices.items()},
    )


def _in_time(requests: Sequence[Request]) -> float:
    return sum(request.in_time for request in requests) / len(requests)
