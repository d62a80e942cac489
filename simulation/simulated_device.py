"""A device in virtual time: the server's own queue and batching, with random service times instead of runs."""

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from turnout_server.devices.sessions import Session
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import batching, routing
from turnout_server.scheduling.device_queue import DeviceQueue, due
from turnout_server.scheduling.entries import Account, Selection, Tenant
from turnout_server.scheduling.profiles import Profile
from turnout_server.scheduling.routing import Forecast

from simulation.service import MAX_ROWS, Saved

#: The server's default.
MAX_QUEUE_SIZE = 1000
#: The outcomes of a request.
ANSWERED, EXPIRED, REFUSED = "answered", "expired", "refused"


@dataclass(slots=True, eq=False)
class Request:
    """One request.

    Attributes:
        deadline_s: the time after which its answer is useless.
        ended_s, outcome: when and how it ended; 0 and empty while it hasn't.
        device: the device that ran it, or its last chunk.
        chunks_left: the number of its chunks that haven't run yet.
        stream: the index of its stream in the scenario.
        predicted_us: how long the policy expected it to take; 0 if it doesn't predict.
    """

    model: str
    rows: int
    arrived_s: float
    deadline_s: float
    ended_s: float = 0.0
    outcome: str = ""
    device: str = ""
    chunks_left: int = 1
    stream: int = 0
    predicted_us: float = 0.0

    def end(self, outcome: str, now_s: float) -> None:
        """Sets the outcome, unless the request has one."""
        if not self.outcome:
            self.outcome, self.ended_s = outcome, now_s

    @property
    def in_time(self) -> bool:
        return self.outcome == ANSWERED and self.ended_s <= self.deadline_s


@dataclass(slots=True, eq=False)
class Chunk:
    """What is queued of a request: all of it, or one of the chunks that it is split into. An `entries.Entry`."""

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
        """Whether another chunk of the request has expired."""
        return bool(self.request.outcome)


class _NoSession:
    """Stands in for the session of a deployment, of which nothing is run."""

    buckets: Sequence[int] = ()


@dataclass(frozen=True)
class ServiceTime:
    """The true service times of a model on a device, log-normal around its profile.

    Attributes:
        spread: the standard deviation of the logarithm.
        factor: multiplies the profile's times; unknown to the server.
    """

    profile: Profile
    spread: float
    factor: float = 1.0

    def draw_s(self, rows: int, random_: random.Random) -> float:
        """A random service time of one run, in seconds."""
        return self.median_us(rows) * math.exp(random_.gauss(0.0, self.spread)) * 1e-6

    def median_us(self, rows: int) -> float:
        """The median service time, in microseconds."""
        return (self.profile.predict_us(rows) or 0.0) * self.factor


@dataclass(frozen=True)
class Run:
    """A run in progress, on the device of this name."""

    device: str
    tenant: Tenant
    batch: list[Chunk]
    rows: int
    ends_s: float
    service_s: float


@dataclass(eq=False)
class SharedTenant:
    """A model in a queue that devices share; each takes batches of its own size. An `entries.Tenant`.

    Attributes:
        by_device: the model's deployment on each device.
        drops_late: a device drops a request that it would answer late; otherwise only expired requests are dropped.
        taker: the device that takes a batch now.
        device: none: the tenant is on all of them.
    """

    by_device: Mapping[str, Deployment]
    drops_late: bool
    taker: str = ""
    device: str = ""
    account: Account = field(default_factory=Account)
    weight: float = 1.0
    instances: int = 0
    preferred_rows: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    target_s: float | None = None
    per_core: None = None

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
        deployments: the models on it, by name.
        service_times: the true service times, by model.
        instances: how many runs may be in progress at once.
        device_queue: its queue, which devices may share.
        shared: the tenants of a shared queue, by model.
        place: the devices that share its hardware, by name, itself among them: they share queue and runs, too.
        running: by run, the number of requests in it and when it is predicted to end.
        busy_s: seconds of runs so far.
    """

    name: str
    deployments: dict[str, Deployment]
    service_times: dict[str, ServiceTime]
    random_: random.Random
    instances: int = 1
    device_queue: DeviceQueue[Chunk] = field(default_factory=DeviceQueue)
    shared: "Mapping[str, SharedTenant]" = field(default_factory=dict)
    place: "dict[str, SimulatedDevice]" = field(default_factory=dict)
    running: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    busy_s: float = 0.0
    _runs: int = 0

    def enqueue(self, request: Request, now_s: float) -> None:
        """Queues a request as the server's executor does, split into chunks if it exceeds the effective maximum batch."""
        if self.shared:  # the devices have different maximum batches, so the request is run whole
            shared = self.shared[request.model]
            deadline_s = request.deadline_s if shared.drops_late else None
            self.device_queue.add(Chunk(request, shared, request.rows, now_s, request.deadline_s, deadline_s))
            return
        tenant, start_by_s = self.deployments[request.model], self._start_by_s(request)
        chunks = tenant.chunks(request.rows)
        request.chunks_left = len(chunks)
        for rows in chunks:
            self.device_queue.add(Chunk(request, tenant, rows, now_s, start_by_s, request.deadline_s))

    @property
    def full(self) -> bool:
        return len(self.device_queue) >= MAX_QUEUE_SIZE

    @property
    def in_flight(self) -> int:
        """The number of requests that are queued or running."""
        return len(self.device_queue) + sum(requests for requests, _ in self.running.values())

    def forecast(self, request: Request, now_s: float) -> Forecast:
        """The same as the server's Executor.forecast."""
        tenant, rows = self.deployments[request.model], request.rows
        alone_us, fastest_us = tenant.predict_us(rows) or 0.0, tenant.profile.fastest_us(rows) or 0.0
        if not self.running and not len(self.device_queue):
            return Forecast(self.name, None, 0.0, alone_us, alone_us, alone_us, fastest_us)
        left_us = [max(0.0, until_s - now_s) * 1e6 for _, until_s in self.running.values()]
        due_s = due(tenant, now_s, self._start_by_s(request))
        ahead_us, service_us, added_us, overtaken = self.device_queue.predicted_us(tenant, (), rows, 1, due_s)
        wait_us = routing.wait_us(left_us, ahead_us, self.instances)
        forecast = Forecast(self.name, None, wait_us, service_us, added_us, alone_us, fastest_us)
        forecast = forecast._replace(caution=tenant.confidence.factor, stands=tenant.standing.stands)
        return forecast._replace(place="+".join(self.place), overtaken=overtaken) if self.place else forecast

    def start(self, now_s: float) -> list[tuple[int, Run]]:
        """Begins runs while an instance is free and requests are queued, on any device of its place; drops expired requests."""
        begun = []
        while self.device_queue and len(self.running) < self.instances:
            for tenant in self.shared.values():
                tenant.taker = self.name
            selection = self.device_queue.take(now_s)
            self._drop(selection, now_s)
            if selection.batch:
                device = self.place.get(selection.batch[0].tenant.device, self)
                begun.append(device._begin(selection.batch, now_s))
            elif not selection.expired and not selection.cancelled:
                break
        return begun

    def ended(self, number: int, run: Run, now_s: float) -> None:
        """Ends a run: answers its requests and updates the profile."""
        self.running.pop((self.name, number))
        self.device_queue.ended(run.tenant, run.service_s)
        self.deployments[run.batch[0].request.model].observe(run.rows, run.service_s * 1e6)
        self.busy_s += run.service_s
        for chunk in run.batch:
            request = chunk.request
            request.chunks_left -= 1
            if not request.chunks_left:
                request.end(ANSWERED, now_s)
                if request.predicted_us:
                    self.deployments[request.model].confidence.observe(missed=not request.in_time)

    def _start_by_s(self, request: Request) -> float:
        """The latest start of a request as the server's data plane computes it; its deadline if it has none."""
        latest_s = self.deployments[request.model].start_by_s(request.rows, request.deadline_s, None)
        return request.deadline_s if latest_s is None else latest_s

    def _drop(self, selection: Selection[Any], now_s: float) -> None:
        for chunk in selection.expired:
            if not chunk.request.outcome and chunk.request.predicted_us:
                self.deployments[chunk.request.model].confidence.observe(missed=True)
            chunk.request.end(EXPIRED, now_s)

    def _begin(self, batch: list[Chunk], now_s: float) -> tuple[int, Run]:
        model, rows = batch[0].request.model, sum(chunk.rows for chunk in batch)
        self._runs += 1
        self.running[self.name, self._runs] = len(batch), now_s + (self.deployments[model].predict_us(rows) or 0.0) * 1e-6
        for chunk in batch:
            chunk.request.device = self.name
        service_s = self.service_times[model].draw_s(rows, self.random_)
        return self._runs, Run(self.name, batch[0].tenant, batch, rows, now_s + service_s, service_s)


def deployment(model: str, device: str, saved: Saved) -> Deployment:
    """A model on a device as it is after loading: with its measured profile, before any request."""
    return Deployment((model, "1", device), cast("Session", _NoSession()), Profile.restored(saved), max_rows=MAX_ROWS)


def capacity_rows_per_s(saved: Saved) -> float:
    """The rows per second that a device can run with the batch size that the server chooses."""
    profile = Profile.restored(saved)
    effective_max_batch = batching.best_rows(profile.settled_us, MAX_ROWS)
    return effective_max_batch / (profile.predict_us(effective_max_batch) or math.inf) * 1e6
