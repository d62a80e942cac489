"""Carries decisions out: a bounded queue and worker threads for each device.

Work-conserving: an idle worker takes what is waiting at once; batches form only while the device is busy.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from turnout_server import batching
from turnout_server.errors import (
    Cancelled,
    DeadlineExceeded,
    Overloaded,
    ServingError,
    Unavailable,
    internal_error,
)
from turnout_server.sessions import Session

logger = logging.getLogger(__name__)

#: A run shorter than this isn't worth handing to another thread, which costs 40 to 100 us.
TINY_US = 100.0
#: How long the thread that brings requests may be away from bringing more.
DRAIN_US = 500.0


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run went for one of the requests in it.

    Attributes:
        outputs: arrays with this request's rows, in the order of the names it asked for.
        batch_rows: rows executed together.
        input_s, output_s: what joining the inputs and taking the outputs apart took.
        first: exactly one request of each run has this set, for counting runs.
    """

    outputs: list[np.ndarray]
    queue_s: float
    compute_s: float
    batch_rows: int
    first: bool
    input_s: float = 0.0
    output_s: float = 0.0


class Work:
    """One request on its way through a device. Ends exactly once; a result that comes later is dropped.

    Args:
        max_rows: the most rows that a run may join; 1 for a model without a batch axis.
        done: told the outcome, from whichever thread reached it.
        max_waiting: how many requests for its session may wait before it; 0 for as many as the device takes.
        fastest_us: what running it alone takes when nothing disturbs it; None if that was never measured.
    """

    __slots__ = (
        "_done",
        "cancelled",
        "deadline_s",
        "enqueued_s",
        "fastest_us",
        "inputs",
        "key",
        "max_rows",
        "max_waiting",
        "outputs",
        "rows",
        "session",
    )

    def __init__(
        self,
        session: Session,
        inputs: dict[str, np.ndarray],
        outputs: tuple[str, ...],
        rows: int,
        max_rows: int,
        deadline_s: float | None,
        done: Callable[[Execution | ServingError], None],
        fastest_us: float | None = None,
        max_waiting: int = 0,
    ) -> None:
        self.session = session
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.max_rows = max_rows
        self.deadline_s = deadline_s
        self.fastest_us = fastest_us
        self.max_waiting = max_waiting
        self.enqueued_s = 0.0
        self.cancelled = False
        self.key = (id(session), outputs, *(array.shape[1:] for array in inputs.values()))
        self._done = [done]

    def finish(self, outcome: Execution | ServingError) -> bool:
        """Delivers the outcome; False if another thread had done so before."""
        try:
            done = self._done.pop()  # atomic: only one thread gets it
        except IndexError:
            return False
        try:
            done(outcome)
        except Exception:  # the thread that brings an answer outlives what becomes of it
            hidden = internal_error()
            logger.exception("a request's outcome could not be delivered: %s", hidden)
            with suppress(Exception):
                done(hidden)
        return True

    def cancel(self) -> None:
        """The caller is gone: don't run this if it still waits."""
        self.cancelled = True


class Executor:
    """One device's queue and its worker threads, one for each instance.

    The thread that calls `drained` runs what is tiny of its own submissions itself, there and then: waking a worker costs
    more than a model that takes 20 us.

    Args:
        limit: how many requests may wait; one more is refused at once.
    """

    def __init__(self, name: str, instances: int = 1, limit: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._limit = limit
        self._clock = clock
        self._queue: list[Work] = []
        self._running = 0
        self._tiny: list[Work] = []
        self._drainer: int | None = None
        self._not_tiny_until_s: dict[int, float] = {}  # by the id of a session that took too long
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}/{number}", daemon=True) for number in range(instances)
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
        if threading.get_ident() == self._drainer and self._is_tiny(work):
            self._tiny.append(work)
            return
        with self._changed:
            if self._stopping:
                raise Unavailable("the server is shutting down")
            if len(self._queue) >= self._limit:
                raise Overloaded(f"Exceeds maximum queue size: {self._limit} requests wait for device '{self.name}'")
            if work.max_waiting and sum(waiting.session is work.session for waiting in self._queue) >= work.max_waiting:
                raise Overloaded(
                    f"Exceeds maximum queue size: {work.max_waiting} requests wait for this model on device '{self.name}'"
                )
            self._queue.append(work)
            self._changed.notify()

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
            selection = batching.select(self._tiny, now_s)
            self._tiny = selection.rest
            began_s = time.thread_time()
            self._end(selection)
            cpu_s = time.thread_time() - began_s
            if selection.batch and cpu_s > DRAIN_US * 1e-6 * (1 + len(selection.batch)):
                # Fast when it was measured, but its time depends on its data, say: left to the workers for a hundred times
                # as long, it can't take more than a hundredth of this thread's time.
                self._not_tiny_until_s[id(selection.batch[0].session)] = now_s + 100 * cpu_s
        return bool(self._tiny)

    def _is_tiny(self, work: Work) -> bool:
        if work.fastest_us is None or work.fastest_us >= TINY_US:
            return False
        return work.enqueued_s >= self._not_tiny_until_s.get(id(work.session), 0.0)

    def in_flight(self) -> int:
        """Requests waiting or running."""
        return len(self._queue) + len(self._tiny) + self._running

    def stop(self, timeout_s: float) -> None:
        """Takes nothing more, finishes what waits, and fails what is left after `timeout_s`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._changed:
            left, self._queue, self._tiny = [*self._queue, *self._tiny], [], []
        for work in left:
            work.finish(Unavailable("the server is shutting down"))

    def _serve(self) -> None:
        while (selection := self._next()) is not None:
            self._end(selection)
            with self._changed:
                self._running -= len(selection.batch)

    def _next(self) -> "batching.Selection[Work] | None":
        """Waits for work and takes the next batch; None once stopped and empty."""
        with self._changed:
            while not self._queue:
                if self._stopping:
                    return None
                self._changed.wait()
            selection = batching.select(self._queue, self._clock())
            self._queue = selection.rest
            self._running += len(selection.batch)
            return selection

    def _end(self, selection: "batching.Selection[Work]") -> None:
        for work in selection.cancelled:
            work.finish(Cancelled("the caller cancelled the request while it waited"))
        for work in selection.expired:
            work.finish(DeadlineExceeded(f"Request timeout expired while waiting for device '{self.name}'"))
        if selection.batch:
            self._run(selection.batch)

    def _run(self, batch: Sequence[Work]) -> None:
        """Runs a batch; whatever happens, every request in it ends and the worker lives on."""
        started_s = self._clock()
        try:
            inputs = batching.collate([work.inputs for work in batch])
            collated_s = self._clock()
            outputs = batch[0].session.run(inputs, batch[0].outputs)
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
            rows = sum(work.rows for work in batch)
            input_s, compute_s, output_s = collated_s - started_s, ran_s - collated_s, self._clock() - ran_s
            for work, part in zip(batch, parts, strict=True):
                queue_s = started_s - work.enqueued_s
                work.finish(Execution(part, queue_s, compute_s, rows, work is batch[0], input_s, output_s))

    def _fail(self, batch: Sequence[Work], error: ServingError) -> None:
        for work in batch:
            work.finish(error)
