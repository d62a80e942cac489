"""The results of a policy in a scenario."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulation.service import BUSY_W, IDLE_W, PRICE_PER_HOUR
from simulation.simulated_device import ANSWERED, EXPIRED, REFUSED, Request, SimulatedDevice


@dataclass(frozen=True)
class Result:
    """One policy in one scenario. Shares are of all requests unless stated otherwise.

    Attributes:
        in_time: the share that was answered by its deadline.
        goodput_per_s: the same in requests per second.
        late, refused, expired: the shares that were answered after their deadline, refused on arrival, or expired in the queue.
        worst_stream: the lowest `in_time` of a stream.
        p50_ms, p99_ms: latencies of answered requests.
        cost_per_million: the price of the devices' busy time per million requests in time.
        energy_j: the energy per request in time, without what the devices draw when idle.
        shares: by device, the share of the answered requests.
        busy: by device, the share of the time.
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


def result_of(scenario: str, policy: str, requests: Sequence[Request], devices: Mapping[str, SimulatedDevice]) -> Result:
    """The result of a simulation that has ended."""
    number = len(requests)
    outcomes = {name: sum(request.outcome == name for request in requests) for name in (ANSWERED, EXPIRED, REFUSED)}
    in_time = sum(request.in_time for request in requests)
    answered = [request for request in requests if request.outcome == ANSWERED]
    took_ms = [(request.ended_s - request.arrived_s) * 1e3 for request in answered] or [0.0]
    duration_s = requests[-1].arrived_s
    price = sum(device.busy_s / 3600 * PRICE_PER_HOUR[name] for name, device in devices.items())
    energy_j = sum(device.busy_s * (BUSY_W[name] - IDLE_W[name]) for name, device in devices.items())
    streams = {request.stream for request in requests}
    return Result(
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
