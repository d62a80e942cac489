"""Carries decisions out: a bounded queue and worker threads for each device.

Work-conserving: an idle worker takes what is waiting at once; batches form only while the device is busy.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence

from turnout_server.core.errors import (
    Cancelled,
    DeadlineExceeded,
    Overloaded,
    ServingError,
    Unavailable,
    internal_error,
)
from turnout_server.core.metrics import Metrics
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import batching, routing
from turnout_server.scheduling.arrivals import Comers
from turnout_server.scheduling.device_queue import Backlog, due
from turnout_server.scheduling.entries import Selection
from turnout_server.scheduling.routing import Forecast
from turnout_server.serving.job import Execution, Work

logger = logging.getLogger(__name__)

#: A run shorter than this isn't worth handing to another thread, which costs 40 to 100 us.
TINY_US = 250.0
#: How long the thread that brings requests may be away from bringing more.
DRAIN_US = 500.0
#: For how long a model may still have to make up for runs that took longer than that before its work counts as tiny no more: a
#: millisecond that the machine was elsewhere is no habit.
LENIENCE_S = 1.0


class Executor:
    """One device's queue and its worker threads, one for each instance.

    The thread that calls `drained` runs what is tiny of its own submissions itself, there and then: waking a worker costs
    more than a model that takes 20 us.

    Args:
        metrics: gets every run.
        limit: how many requests may wait; one more is refused at once.
        cpus: the cores that the worker threads keep to; empty for all of the process's.
    """

    def __init__(
        self,
        name: str,
        metrics: Metrics,
        instances: int = 1,
        limit: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        cpus: Collection[int] = (),
    ) -> None:
        self.name = name
        self._metrics = metrics
        self._limit = limit
        self._clock = clock
        self._cpus = cpus
        self._backlog: Backlog[Work] = Backlog()
        self._running: dict[int, tuple[int, float]] = {}  # requests, and when they will be done, by worker
        self._instances = instances
        self._tiny: list[Work] = []
        self._drainer: int | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), name=f"{name}/{number}", daemon=True)
            for number in range(instances)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Enqueues.

        Raises:
            Overloaded: the queue is full.
            Unavailable: the server is stopping.
        """
        work.enqueued_s = self._clock()
        if self._is_tiny(work.tenant, work.rows, work.enqueued_s):
            self._tiny.append(work)
            return
        dropped: Selection[Work] = Selection()
        try:
            with self._changed:
                if self._stopping:
                    raise Unavailable("the server is shutting down")
                if self.full(work.tenant, work.priority, work.max_waiting) is not None:
                    self._backlog.sweep(work.enqueued_s, dropped)
                    if (problem := self.full(work.tenant, work.priority, work.max_waiting)) is not None:
                        raise problem
                rows = work.tenant.parts(work.rows)
                for part in [work] if len(rows) == 1 else work.split(rows):
                    self._backlog.add(part)
                self._changed.notify(len(rows))
        finally:
            self._drop(dropped)

    def full(self, tenant: Deployment, priority: int, max_waiting: int) -> Overloaded | None:
        """Why nothing more of a model and priority may wait here; None while it may."""
        if len(self._backlog) >= self._limit:
            return Overloaded(f"Exceeds maximum queue size: {self._limit} requests wait for device '{self.name}'")
        if max_waiting and self._backlog.waiting(tenant, priority) >= max_waiting:
            return Overloaded(f"Exceeds maximum queue size: {max_waiting} requests wait for this model on device '{self.name}'")
        return None

    def forecast(
        self, tenant: Deployment, kind: Hashable, rows: int, priority: int = 1, deadline_s: float | None = None
    ) -> Forecast | None:
        """What would become of a request of so many rows; None if its model was never measured here."""
        alone_us, fastest_us = tenant.predict_us(rows), tenant.profile.fastest_us(rows)
        if alone_us is None or fastest_us is None:
            return None
        if self.unhindered_us(tenant, rows) is not None:
            return Forecast(0.0, alone_us, alone_us, alone_us, fastest_us)
        now_s = self._clock()
        left_us = [max(0.0, until_s - now_s) * 1e6 for _, until_s in tuple(self._running.values())]
        prospect = self._backlog.prospect(tenant, kind, rows, priority, due(tenant, now_s, deadline_s))
        wait_us = routing.wait_us(left_us, prospect.ahead_us, self._instances)
        return Forecast(wait_us, prospect.joined_us, prospect.added_us, alone_us, fastest_us)

    def unhindered_us(self, tenant: Deployment, rows: int) -> float | None:
        """What a request takes that need not wait, in microseconds; None if it must, or was never measured here."""
        idle = not self._running and not len(self._backlog)
        if idle or self._is_tiny(tenant, rows, self._clock()):  # what is tiny doesn't wait in the queue
            return tenant.predict_us(rows)
        return None

    def comers(self, priority: int) -> Sequence[Comers]:
        """Who comes to each instance of late and is at least so urgent; nobody while one more run leaves an instance free."""
        if len(self._running) + 1 < self._instances:
            return ()
        comers = self._backlog.comers(self._clock(), priority)
        return comers if self._instances == 1 else [each._replace(per_s=each.per_s / self._instances) for each in comers]

    def drained(self) -> bool:
        """Runs the tiny work that the calling thread has submitted; from its first call on, such work waits for the next.

        After `DRAIN_US` it returns to what it was doing, and says whether there is more to run. A worker isn't given the
        rest: two threads that take turns at the interpreter do less than one.
        """
        self._drainer = threading.get_ident()
        if not self._tiny:
            return False
        until_s = self._clock() + DRAIN_US * 1e-6
        while self._tiny and (now_s := self._clock()) < until_s:
            selection, self._tiny = batching.select(self._tiny, now_s)
            began_s = time.thread_time()
            self._drop(selection)
            if selection.batch:
                self._run(selection.batch)
                cpu_s = time.thread_time() - began_s
                if cpu_s > DRAIN_US * 1e-6 * (1 + len(selection.batch)):
                    # Fast when it was measured, but its time depends on its data, say: it has to make up for each such run
                    # for a hundred times as long, so it can't take more than a hundredth of this thread's time.
                    tenant = selection.batch[0].tenant
                    tenant.even_at_s = max(tenant.even_at_s, now_s) + 100 * cpu_s
        return bool(self._tiny)

    def _is_tiny(self, tenant: Deployment, rows: int, now_s: float) -> bool:
        """Whether the calling thread runs this itself when it is drained."""
        if threading.get_ident() != self._drainer:
            return False
        fastest_us = tenant.profile.fastest_us(rows)
        if fastest_us is None or fastest_us >= TINY_US or tenant.max_delay_s or len(self._tiny) >= self._limit:
            return False
        return now_s + LENIENCE_S >= tenant.even_at_s

    def in_flight(self) -> int:
        """Requests waiting or running."""
        return self.waiting() + self.running()

    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._backlog) + len(self._tiny)

    def running(self) -> int:
        """Requests that the workers are running."""
        return sum(requests for requests, _ in tuple(self._running.values()))

    def stop(self, timeout_s: float) -> None:
        """Takes nothing more, finishes what waits, and fails what is left after `timeout_s`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._changed:
            left, self._tiny = [*self._backlog.clear(), *self._tiny], []
        for work in left:
            work.finish(Unavailable("the server is shutting down"))

    def _serve(self, worker: int) -> None:
        self._pin()
        while self._serve_next(worker):
            pass  # a function of its own, so that a thread which waits holds no batch, and with it no unloaded model

    def _serve_next(self, worker: int) -> bool:
        """Waits for a batch and runs it; False once stopped and empty."""
        selection = self._next(worker)
        if selection is None:
            return False
        self._drop(selection)
        if selection.batch:
            tenant = selection.batch[0].tenant
            service_s = self._run(selection.batch)
            with self._changed:
                self._running.pop(worker)
                self._backlog.ended(tenant, service_s)
                if self._stopping or (self._backlog and tenant.instances):
                    self._changed.notify_all()  # others may wait for the end, or for this model's turn
        return True

    def _pin(self) -> None:
        """Keeps the calling thread to this device's cores. One that the system has taken away since isn't worth failing for."""
        if self._cpus:
            try:
                os.sched_setaffinity(0, self._cpus)  # on Linux, of this thread only
            except OSError as error:
                logger.warning("device %s is not kept to the cores %s: %s", self.name, list(self._cpus), error)

    def _next(self, worker: int) -> Selection[Work] | None:
        """Waits for work and takes the next batch; None once stopped and empty."""
        with self._changed:
            while True:
                now_s = self._clock()
                selection = self._backlog.take(now_s, hurry=self._stopping, idle=self._instances - len(self._running))
                if selection.batch:
                    rows = sum(work.rows for work in selection.batch)
                    service_us = selection.batch[0].tenant.predict_us(rows) or 0.0
                    self._running[worker] = len(selection.batch), now_s + service_us * 1e-6
                if selection.batch or selection.expired or selection.cancelled:
                    return selection
                if self._stopping and not self._backlog:
                    return None
                self._changed.wait(None if selection.wake_s is None else selection.wake_s - now_s)

    def _drop(self, selection: Selection[Work]) -> None:
        for work in selection.cancelled:
            work.finish(Cancelled("the caller cancelled the request while it waited"))
        for work in selection.expired:
            work.finish(DeadlineExceeded(f"Request timeout expired while waiting for device '{self.name}'"))

    def _run(self, batch: Sequence[Work]) -> float:
        """Runs a batch; whatever happens, every request in it ends and the worker lives on. Returns the seconds it took."""
        started_s = self._clock()
        tenant = batch[0].tenant
        try:
            inputs = batching.collate([work.inputs for work in batch])
            collated_s = self._clock()
            outputs = tenant.session.run(inputs, batch[0].outputs)
            ran_s = self._clock()
            parts = batching.scatter(outputs, [work.rows for work in batch])
        except ServingError as error:
            if len(batch) == 1:
                self._fail(batch, error)
            else:  # one bad request fails the run of all: each alone shows whose it was
                for work in batch:
                    self._run([work])
        except BaseException:
            hidden = internal_error()
            logger.exception("a batch of %d failed on %s: %s", len(batch), self.name, hidden)
            self._fail(batch, hidden)
        else:
            ended_s = self._clock()
            input_s, compute_s, output_s = collated_s - started_s, ran_s - collated_s, ended_s - ran_s
            rows = batch[0].rows if len(batch) == 1 else sum(work.rows for work in batch)
            if rows:  # an empty request is answered, too, and says nothing about others
                tenant.profile.observe(rows, (ended_s - started_s) * 1e6)
            series = self._metrics.series(tenant.key)
            series.batch_rows.observe(rows)
            series.batches[rows].observe(input_s, compute_s, output_s)
            for work, part in zip(batch, parts, strict=True):
                queue_s = started_s - work.enqueued_s
                series.late += not work.finish(Execution(part, queue_s, compute_s, rows, input_s, output_s))
        return self._clock() - started_s

    def _fail(self, batch: Sequence[Work], error: ServingError) -> None:
        for work in batch:
            work.finish(error)
