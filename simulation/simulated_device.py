"""A device in virtual time: the server's queue and batching, with drawn service times instead of runs."""

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from turnout_server.core.signatures import TensorSpec
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import batching, routing
from turnout_server.scheduling.device_queue import DeviceQueue, due
from turnout_server.scheduling.entries import Account, Selection, Tenant
from turnout_server.scheduling.profiles import Profile
from turnout_server.scheduling.routing import Forecast

from simulation.service import MAX_ROWS, Saved

#: The server's default.
MOST_WAITING = 1000
ANSWERED, EXPIRED, REFUSED = "answered", "expired", "refused"


@dataclass(slots=True, eq=False)
class Request:
    """One request.

    Attributes:
        deadline_s: when its answer is worth nothing any more.
        ended_s, outcome: when and how it ended; empty while it hasn't.
        device: where it ran, or its last part.
        parts_left: how many of its runs are still to end.
        stream: which of its scenario's streams it belongs to.
    """

    model: str
    rows: int
    arrived_s: float
    deadline_s: float
    ended_s: float = 0.0
    outcome: str = ""
    device: str = ""
    parts_left: int = 1
    stream: int = 0

    def end(self, outcome: str, now_s: float) -> None:
        """Ends it, if it hasn't."""
        if not self.outcome:
            self.outcome, self.ended_s = outcome, now_s

    @property
    def in_time(self) -> bool:
        return self.outcome == ANSWERED and self.ended_s <= self.deadline_s


@dataclass(slots=True, eq=False)
class Part:
    """What waits of a request: all of it, or one of the runs it is split into. An `entries.Entry`."""

    request: Request
    tenant: Tenant
    rows: int
    enqueued_s: float
    start_by_s: float
    deadline_s: float | None
    batch_key: Hashable = ()
    priority: int = 1

    @property
    def cancelled(self) -> bool:
        """Another part has failed."""
        return bool(self.request.outcome)


class _Nothing:
    """A session for a deployment of which nothing is ever run."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self) -> None:
        self.placement: dict[str, int] = {}
        self.graphs: dict[int, str] = {}

    def trim(self) -> None:
        """There is nothing to give back."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        raise NotImplementedError


@dataclass(frozen=True)
class Truth:
    """How long runs really take: around the profile, which the server knows, times a factor, which it doesn't."""

    profile: Profile
    spread: float
    factor: float = 1.0

    def draw_s(self, rows: int, random_: random.Random) -> float:
        """The seconds of one run."""
        return self.median_us(rows) * math.exp(random_.gauss(0.0, self.spread)) * 1e-6

    def median_us(self, rows: int) -> float:
        """The microseconds that half of all runs take at most."""
        return (self.profile.predict_us(rows) or 0.0) * self.factor


@dataclass(frozen=True)
class Run:
    """A batch on its way, and when it will have ended."""

    tenant: Tenant
    batch: list[Part]
    rows: int
    ends_s: float
    service_s: float


@dataclass(eq=False)
class SharedTenant:
    """A model whose requests several devices take from one queue, each in batches of its own size. An `entries.Tenant`.

    Attributes:
        drops_late: whoever takes a request drops it if it would be late there; otherwise only what has expired is dropped.
        taker: the device that looks for a batch now.
    """

    by_device: Mapping[str, Deployment]
    drops_late: bool
    taker: str = ""
    account: Account = field(default_factory=Account)
    weight: float = 1.0
    instances: int = 0
    preferred_rows: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    target_s: float | None = None

    @property
    def effective_max_batch(self) -> int:
        return self.by_device[self.taker].effective_max_batch

    def predict_us(self, rows: int) -> float | None:
        return self.by_device[self.taker].predict_us(rows)

    def likely_us(self, rows: int) -> float | None:
        return self.by_device[self.taker].likely_us(rows)


@dataclass(eq=False)
class SimulatedDevice:
    """One device.

    Attributes:
        deployments: the models on it.
        truths: how long their runs really take.
        device_queue: what waits for it; devices may share one.
        shared: the tenants of a queue that is shared.
        running: requests, and when they should be done, by run.
        busy_s: seconds of runs so far.
    """

    name: str
    deployments: dict[str, Deployment]
    truths: dict[str, Truth]
    random_: random.Random
    instances: int = 1
    device_queue: DeviceQueue[Part] = field(default_factory=DeviceQueue)
    shared: "Mapping[str, SharedTenant]" = field(default_factory=dict)
    running: dict[int, tuple[int, float]] = field(default_factory=dict)
    busy_s: float = 0.0
    _runs: int = 0

    def enqueue(self, request: Request, now_s: float) -> None:
        """As Executor.submit: in parts, if it is larger than what is worth running at once."""
        if self.shared:  # by devices with different caps; whoever takes it runs it whole
            shared = self.shared[request.model]
            deadline_s = request.deadline_s if shared.drops_late else None
            self.device_queue.add(Part(request, shared, request.rows, now_s, request.deadline_s, deadline_s))
            return
        tenant, start_by_s = self.deployments[request.model], self._start_by_s(request)
        chunks = tenant.chunks(request.rows)
        request.parts_left = len(chunks)
        for rows in chunks:
            self.device_queue.add(Part(request, tenant, rows, now_s, start_by_s, request.deadline_s))

    @property
    def full(self) -> bool:
        return len(self.device_queue) >= MOST_WAITING

    @property
    def in_flight(self) -> int:
        """Requests waiting or running."""
        return len(self.device_queue) + sum(requests for requests, _ in self.running.values())

    def forecast(self, request: Request, now_s: float) -> Forecast:
        """As Executor.forecast."""
        tenant, rows = self.deployments[request.model], request.rows
        alone_us, fastest_us = tenant.predict_us(rows) or 0.0, tenant.profile.fastest_us(rows) or 0.0
        if not self.running and not len(self.device_queue):
            return Forecast(self.name, None, 0.0, alone_us, alone_us, alone_us, fastest_us)
        left_us = [max(0.0, until_s - now_s) * 1e6 for _, until_s in self.running.values()]
        due_s = due(tenant, now_s, self._start_by_s(request))
        ahead_us, service_us, added_us = self.device_queue.predicted_us(tenant, (), rows, 1, due_s)
        wait_us = routing.wait_us(left_us, ahead_us, self.instances)
        return Forecast(self.name, None, wait_us, service_us, added_us, alone_us, fastest_us)

    def start(self, now_s: float) -> list[tuple[int, Run]]:
        """Begins every run that may begin; drops what nobody waits for any more."""
        begun = []
        while self.device_queue and len(self.running) < self.instances:
            for tenant in self.shared.values():
                tenant.taker = self.name
            selection = self.device_queue.take(now_s)
            _drop(selection, now_s)
            if selection.batch:
                begun.append(self._begin(selection.batch, now_s))
            elif not selection.expired and not selection.cancelled:
                break
        return begun

    def ended(self, number: int, run: Run, now_s: float) -> None:
        """A run is over: its requests are answered, and the profile learns."""
        self.running.pop(number)
        self.device_queue.ended(run.tenant, run.service_s)
        self.deployments[run.batch[0].request.model].observe(run.rows, run.service_s * 1e6)
        self.busy_s += run.service_s
        for part in run.batch:
            request = part.request
            request.parts_left -= 1
            if not request.parts_left:
                request.end(ANSWERED, now_s)

    def _start_by_s(self, request: Request) -> float:
        """As DataPlane: with the deadline of a request whose run may wait for as long as it likes."""
        latest_s = self.deployments[request.model].start_by_s(request.rows, request.deadline_s, None)
        return request.deadline_s if latest_s is None else latest_s

    def _begin(self, batch: list[Part], now_s: float) -> tuple[int, Run]:
        model, rows = batch[0].request.model, sum(part.rows for part in batch)
        self._runs += 1
        self.running[self._runs] = len(batch), now_s + (self.deployments[model].predict_us(rows) or 0.0) * 1e-6
        for part in batch:
            part.request.device = self.name
        service_s = self.truths[model].draw_s(rows, self.random_)
        return self._runs, Run(batch[0].tenant, batch, rows, now_s + service_s, service_s)


def deployment(model: str, device: str, saved: Saved) -> Deployment:
    """A model on a device as it is after loading: measured, and nothing learnt yet."""
    return Deployment((model, "1", device), _Nothing(), Profile.restored(saved), max_rows=MAX_ROWS)


def most_rows_per_s(saved: Saved) -> float:
    """The rows per second that a device could carry with the server's own batch size."""
    profile = Profile.restored(saved)
    cap = batching.best_rows(profile.settled_us, MAX_ROWS)
    return cap / (profile.predict_us(cap) or math.inf) * 1e6


def _drop(selection: Selection[Any], now_s: float) -> None:
    for part in selection.expired:
        part.request.end(EXPIRED, now_s)
