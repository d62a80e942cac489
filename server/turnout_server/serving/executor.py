"""The queue and the worker threads of one place: of one device, or of several that share hardware and take turns on it.

Work-conserving: an idle worker takes what is waiting at once; batches form only while the place is busy.
"""

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from turnout_server.core.errors import Overloaded, Unavailable
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import routing
from turnout_server.scheduling.arrivals import ArrivalRate
from turnout_server.scheduling.device_queue import DeviceQueue, due
from turnout_server.scheduling.entries import Selection
from turnout_server.scheduling.per_core import NO_CORES, Cores, Crowd
from turnout_server.scheduling.routing import Forecast
from turnout_server.serving.batch_run import BatchRunner, drop
from turnout_server.serving.job import Job

logger = logging.getLogger(__name__)


class _Run(NamedTuple):
    """A run in progress: of which model, of how many requests, when it will be done, and whether it is on one core."""

    tenant: Deployment
    requests: int
    done_s: float
    per_core: bool


class Executor:
    """A bounded queue, and a worker thread for each run that may be in progress.

    Args:
        runners: run the batches, by device.
        instances: runs in progress at once.
        own: of these, how many each device may have, where that isn't all.
        cores: how many runs may be in progress instead if each is on one core; 0 for none.
        limit: how many requests may wait; further ones are refused at once.
        cpus: the cores that the worker threads are pinned to; empty for all of the process's.
    """

    def __init__(
        self,
        runners: Mapping[str, BatchRunner],
        instances: int = 1,
        limit: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        cpus: Collection[int] = (),
        own: Mapping[str, int] = MappingProxyType({}),
        cores: int = 0,
    ) -> None:
        names = ", ".join(f"'{name}'" for name in runners)
        self._title = f"device {names}" if len(runners) == 1 else f"devices {names}"
        self._place = "+".join(runners) if len(runners) > 1 else ""
        self._runners = runners
        self._limit = limit
        self._clock = clock
        self._cpus = cpus
        self._queue: DeviceQueue[Job] = DeviceQueue()
        self._running: dict[int, _Run] = {}  # by worker
        self._instances = instances
        self._cores = cores
        self._crowd = Crowd()
        self._own = {device: number for device, number in own.items() if number < instances}
        self._stopping = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._most_threads = instances + cores
        for _ in range(instances):
            self._start_worker()

    def submit(self, job: Job) -> None:
        """Queues a job.

        Raises:
            Overloaded: the queue is full.
            Unavailable: the server is stopping.
        """
        job.enqueued_s = self._clock()
        dropped: Selection[Job] = Selection()
        try:
            with self._changed:
                if self._stopping:
                    raise Unavailable("the server is shutting down")
                if self._full(job.tenant, job.priority, job.max_waiting) is not None:
                    self._queue.sweep(job.enqueued_s, dropped)
                    self._watch(job.enqueued_s)
                    if (reason := self._full(job.tenant, job.priority, job.max_waiting)) is not None:
                        raise reason
                rows = job.tenant.chunks(job.rows)
                for chunk in [job] if len(rows) == 1 else job.split(rows):
                    self._queue.add(chunk)
                self._watch(job.enqueued_s)
                self._wake(len(rows))
        finally:
            drop(dropped)

    def forecast(
        self,
        tenant: Deployment,
        batch_key: Hashable,
        rows: int,
        priority: int = 1,
        start_by_s: float | None = None,
        max_waiting: int = 0,
    ) -> Forecast:
        """What would happen to a request that was queued now."""
        full = self._full(tenant, priority, max_waiting)
        alone_us, fastest_us = tenant.predict_us(rows), tenant.fastest_us(rows)
        if alone_us is None or fastest_us is None:
            return Forecast(tenant.device, full)
        if self.idle:
            return Forecast(tenant.device, full, 0.0, alone_us, alone_us, alone_us, fastest_us)
        now_s, running = self._clock(), tuple(self._running.values())
        due_s = due(tenant, now_s, start_by_s)
        ahead_us, service_us, added_us, overtaken = self._queue.predicted_us(tenant, batch_key, rows, priority, due_s)
        on_cores_us = [_remaining_us(run, now_s) for run in running if run.per_core]
        whole_us = [_remaining_us(run, now_s) for run in running if not run.per_core]
        if on_cores_us and tenant.per_core is not None:
            wait_us = routing.wait_us([*on_cores_us, *whole_us], ahead_us * self._cores, self._cores)
            slower_us = max(0.0, (tenant.per_core.predict_us(rows) or 0.0) - alone_us)
            latest_s = math.inf if start_by_s is None else start_by_s + fastest_us * 1e-6
            if now_s + (wait_us + service_us + slower_us) * 1e-6 <= latest_s:  # else it will have all cores
                service_us += slower_us
        else:
            wait_us = routing.wait_us(whole_us, ahead_us, self._own.get(tenant.device, self._instances))
            service_us += sum(on_cores_us) / (self._cores or 1)  # it begins beside those, and shares the cores until they end
        forecast = Forecast(tenant.device, full, wait_us, service_us, added_us, alone_us, fastest_us)
        return forecast._replace(place=self._place, overtaken=overtaken) if self._place else forecast

    def arrivals(self, priority: int) -> Sequence[ArrivalRate]:
        """Recent arrivals per instance that were at least as urgent; none while one more run leaves an instance free."""
        if len(self._running) + 1 < self._instances:
            return ()
        rates = self._queue.arrivals(self._clock(), priority)
        return rates if self._instances == 1 else [rate._replace(per_s=rate.per_s / self._instances) for rate in rates]

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._running and not len(self._queue)

    def waiting(self, device: str) -> int:
        """Requests in the queue that are for a device."""
        return self._queue.waiting_for(device)

    def running(self, device: str) -> int:
        """Requests that are running on a device."""
        return sum(run.requests for run in tuple(self._running.values()) if run.tenant.device == device)

    def running_of(self, tenant: Deployment) -> int:
        """Requests for one model that are running on one device."""
        return sum(run.requests for run in tuple(self._running.values()) if run.tenant is tenant)

    def stop(self, timeout_s: float) -> None:
        """Takes nothing more, finishes what is queued, and fails what is left after `timeout_s`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._changed:
            left = self._queue.clear()
        for job in left:
            job.complete(Unavailable("the server is shutting down"))

    def _full(self, tenant: Deployment, priority: int, max_waiting: int) -> Overloaded | None:
        """Why nothing more of a model and priority may be queued; None while it may."""
        if len(self._queue) >= self._limit:
            return Overloaded(f"Exceeds maximum queue size: {self._limit} requests wait for {self._title}")
        if max_waiting and self._queue.waiting(tenant, priority) >= max_waiting:
            return Overloaded(
                f"Exceeds maximum queue size: {max_waiting} requests wait for this model on device '{tenant.device}'"
            )
        return None

    def _requests(self) -> int:
        """How many requests wait or run here."""
        return len(self._queue) + sum(run.requests for run in self._running.values())

    def _watch(self, now_s: float) -> None:
        """Takes note of how many requests there are, where that matters."""
        if self._cores:
            self._crowd.changed(now_s, self._requests())

    def _whole(self) -> list[_Run]:
        """The runs in progress that have their device to themselves."""
        return [run for run in self._running.values() if not run.per_core]

    def _idle_instances(self) -> int:
        """How many runs that have their device to themselves may begin now."""
        return self._instances - len(self._whole())

    def _free_cores(self) -> int:
        """How many runs on one core may begin now: none while a run has all of them."""
        return 0 if self._whole() else max(0, self._cores - len(self._running))

    def _wake(self, workers: int = 1) -> None:
        """Has so many idle workers look for work, where a run could begin now; starts one if none is idle.

        Workers for cores are only started when they are needed, because the allocator keeps memory for every thread.
        """
        if not self._idle_instances() and not self._free_cores():
            return
        if len(self._running) < len(self._threads):
            self._changed.notify(workers)
        elif len(self._threads) < self._most_threads:
            try:
                self._start_worker()
            except RuntimeError as error:  # the system gives no more threads: those that are there do the work
                self._most_threads = len(self._threads)
                logger.warning("%s has %d workers and no more: %s", self._title, self._most_threads, error)

    def _start_worker(self) -> None:
        """Starts one more worker.

        Raises:
            RuntimeError: the system has no thread for it.
        """
        number = len(self._threads)
        thread = threading.Thread(target=self._serve, args=(number,), name=f"{'+'.join(self._runners)}/{number}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _room(self) -> Mapping[str, int]:
        """How many runs each device may begin now, of those that may not have all instances of the place."""
        if not self._own:
            return self._own
        begun = Counter(run.tenant.device for run in self._whole())
        return {device: number - begun[device] for device, number in self._own.items()}

    def _core_room(self, now_s: float) -> Cores:
        """The cores that may each have a run, and how many requests are there for them."""
        if not self._cores:
            return NO_CORES
        return Cores(self._cores, self._free_cores(), max(self._requests(), round(self._crowd.mean(now_s))))

    def _serve(self, worker: int) -> None:
        self._pin()
        while self._serve_next(worker):
            pass  # in a function of its own, so that a waiting thread holds no batch, and with it no unloaded model

    def _serve_next(self, worker: int) -> bool:
        """Waits for a batch and runs it; False once stopped and empty."""
        selection = self._next(worker)
        if selection is None:
            return False
        drop(selection)
        if selection.batch:
            tenant = selection.batch[0].tenant
            service_s = self._runners[tenant.device].run(selection.batch, per_core=selection.per_core)
            with self._changed:
                self._running.pop(worker)
                self._queue.ended(tenant, service_s)
                self._watch(self._clock())
                if self._stopping or (self._queue and (tenant.instances or self._own)):
                    self._changed.notify_all()  # others may wait for the end, or for this model's next run
        return True

    def _pin(self) -> None:
        """Pins the calling thread to this place's cores. Only logs a failure: the system may have taken a core away."""
        if self._cpus:
            try:
                os.sched_setaffinity(0, self._cpus)  # on Linux, for this thread only
            except OSError as error:
                logger.warning("%s is not pinned to the cores %s: %s", self._title, list(self._cpus), error)

    def _next(self, worker: int) -> Selection[Job] | None:
        """Waits for work and takes the next batch; None once stopped and empty."""
        with self._changed:
            while True:
                now_s = self._clock()
                idle, cores = self._idle_instances(), self._core_room(now_s)
                selection = self._queue.take(now_s, hurry=self._stopping, idle=idle, room=self._room(), cores=cores)
                if selection.batch:
                    self._running[worker] = _begun(selection, now_s)
                    if selection.per_core and self._queue:
                        self._wake()
                if selection.expired or selection.cancelled:
                    self._watch(now_s)
                if selection.batch or selection.expired or selection.cancelled:
                    return selection
                if self._stopping and not self._queue:
                    return None
                self._changed.wait(None if selection.wake_s is None else selection.wake_s - now_s)


def _remaining_us(run: _Run, now_s: float) -> float:
    """How long a run is likely to go on."""
    return max(0.0, run.done_s - now_s) * 1e6


def _begun(selection: Selection[Job], now_s: float) -> _Run:
    """The run of a batch that begins now."""
    batch, tenant = selection.batch, selection.batch[0].tenant
    way = tenant.way(per_core=selection.per_core)
    service_us = way.predict_us(sum(job.rows for job in batch)) or 0.0
    return _Run(tenant, len(batch), now_s + service_us * 1e-6, selection.per_core)
