"""Policies that choose a device for a request. Queues, batching and expiry are the same for all of them."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from turnout_server.core.device_names import AUTO
from turnout_server.core.errors import Overloaded, ServingError
from turnout_server.scheduling import routing
from turnout_server.scheduling.routing import Forecast, Preferences

from simulation.service import BUSY_W, CPU, GPU, IDLE_W, PRICE_PER_HOUR
from simulation.simulated_device import Request, SimulatedDevice

#: By objective, what an hour of each device costs; empty if only time counts.
RATES: dict[str, dict[str, float]] = {
    routing.LATENCY: {},
    routing.COST: PRICE_PER_HOUR,
    routing.ENERGY: {name: BUSY_W[name] - IDLE_W[name] for name in BUSY_W},
}

Devices = Mapping[str, SimulatedDevice]


@dataclass(frozen=True)
class Sharing:
    """All devices take from one queue, whichever device the policy chooses.

    Attributes:
        drops_late: see SharedTenant.
    """

    drops_late: bool


class Policy(Protocol):
    """Chooses a device for each request.

    Attributes:
        sharing: how devices share a queue; None if each has its own.
    """

    @property
    def sharing(self) -> Sharing | None: ...

    def choose(self, request: Request, devices: Devices, now_s: float) -> str | None:
        """The device for a request; None to refuse it."""
        ...


class Only:
    """Sends all requests to one device."""

    sharing = None

    def __init__(self, device: str) -> None:
        self._device = device

    def choose(self, request: Request, devices: Devices, now_s: float) -> str | None:
        return self._device


class Random:
    """Chooses either device with equal probability."""

    sharing = None

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def choose(self, request: Request, devices: Devices, now_s: float) -> str | None:
        return self._random.choice(list(devices))


class ShortestQueue:
    """Chooses the device with the fewest requests queued and running; of equals, the GPU."""

    sharing = None

    def choose(self, request: Request, devices: Devices, now_s: float) -> str | None:
        return min(devices, key=lambda name: (devices[name].in_flight, name != GPU))


class FirstIdle:
    """One queue for both devices, from which an idle device takes the next batch; the GPU if both are idle."""

    def __init__(self, *, drops_late: bool) -> None:
        self.sharing = Sharing(drops_late)

    def choose(self, request: Request, devices: Devices, now_s: float) -> str | None:
        return GPU


class Threshold:
    """Sends requests with at least a number of rows to the GPU, others to the CPU.

    Args:
        rows: the threshold of each model.
    """

    sharing = None

    def __init__(self, rows: Mapping[str, float]) -> None:
        self._rows = rows

    def choose(self, request: Request, devices: Devices, now_s: float) -> str | None:
        return GPU if request.rows >= self._rows[request.model] else CPU


class Turnout:
    """Decides as the server does.

    Args:
        asks: the `device` parameter of a request.
        admits_all: no request is refused for its deadline, which separates the effect of routing from that of admission.
        weighs_others: the deadline misses that a request would cause for others count, as in the server.
    """

    sharing = None

    def __init__(
        self,
        objective: str = routing.LATENCY,
        *,
        admits_all: bool = False,
        weighs_others: bool = True,
        asks: Callable[[Request], str] = lambda request: AUTO,
    ) -> None:
        self._objective = objective
        self._asks = asks
        self._admits_all = admits_all
        self._weighs_others = weighs_others
        self._last: dict[str, str] = {}

    def choose(self, request: Request, devices: Devices, now_s: float) -> str | None:
        forecasts = {name: self._forecast(request, device, now_s) for name, device in devices.items()}
        deadline_us = math.inf if self._admits_all else (request.deadline_s - now_s) * 1e6
        last = self._last.get(request.model, "")
        preferences = Preferences(
            routing.resolve(self._asks(request), tuple(devices)), self._objective, deadline_us, None, last
        )
        try:
            route = routing.choose(preferences, forecasts, {})
        except ServingError:
            self._watch(request, devices, forecasts, now_s, refused=True)
            return None
        self._watch(request, devices, forecasts, now_s, refused=False)
        self._last[request.model] = route.device
        request.predicted_us = route.predicted_us or 0.0
        return route.device

    def _watch(
        self, request: Request, devices: Devices, forecasts: Mapping[str, Forecast], now_s: float, *, refused: bool
    ) -> None:
        """The same as the server's selection."""
        routing.watch(
            forecasts.values(),
            lambda name: devices[name].deployments[request.model].standing,
            (request.deadline_s - now_s) * 1e6,
            now_s,
            refused=refused,
        )

    def _forecast(self, request: Request, device: SimulatedDevice, now_s: float) -> Forecast:
        """The same as the server's Selector.forecast."""
        forecast = device.forecast(request, now_s)
        return forecast._replace(
            unavailable=Overloaded("full") if device.full else None,
            rate=RATES[self._objective].get(device.name),
            occupancy_us=min(forecast.added_us, device.deployments[request.model].longest_chunk_us(request.rows)),
            arrivals=device.device_queue.arrivals(now_s, 1) if self._weighs_others else (),
        )
