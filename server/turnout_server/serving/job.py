"""A request on its way through a device, whole or split into chunks."""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from turnout_server.core.errors import ServingError, unexpected_error
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import batching

logger = logging.getLogger(__name__)


class Execution(NamedTuple):
    """The result of a run for one of the requests in it.

    Attributes:
        outputs: arrays with this request's rows, in the order of the output names it asked for.
        queue_s: from queueing to the start of the run.
        compute_s: the session's run.
        batch_rows: rows executed together.
        input_s, output_s: batching the inputs, and splitting the outputs.
    """

    outputs: list[np.ndarray]
    queue_s: float
    compute_s: float
    batch_rows: int
    input_s: float = 0.0
    output_s: float = 0.0


Outcome = Execution | ServingError


class Job:
    """One request on its way through a device. It completes exactly once; a later result is dropped.

    Args:
        tenant: the deployment that runs it.
        batch_key: equal for jobs that may be batched.
        done: receives the outcome, on any thread.
        start_by_s: the latest time at which starting it makes sense, on the monotonic clock; None for any time.
        deadline_s: when its answer must be there to be of use, on the monotonic clock; None for any time.
        max_waiting: the job is refused if this many of its tenant and priority wait already; 0 for the device's limit only.
    """

    __slots__ = (
        "_done",
        "batch_key",
        "cancelled",
        "chunks",
        "deadline_s",
        "enqueued_s",
        "inputs",
        "max_waiting",
        "outputs",
        "priority",
        "rows",
        "start_by_s",
        "tenant",
    )

    def __init__(
        self,
        tenant: Deployment,
        inputs: dict[str, np.ndarray],
        outputs: tuple[str, ...],
        rows: int,
        batch_key: Hashable,
        done: Callable[[Outcome], None],
        start_by_s: float | None = None,
        deadline_s: float | None = None,
        priority: int = 1,
        max_waiting: int = 0,
    ) -> None:
        self.tenant = tenant
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.batch_key = batch_key
        self.start_by_s = start_by_s
        self.deadline_s = deadline_s
        self.priority = priority
        self.max_waiting = max_waiting
        self.enqueued_s = 0.0
        self.cancelled = False
        self.chunks: list[Job] = []
        self._done = [done]

    def complete(self, outcome: Outcome) -> bool:
        """Delivers the outcome; False if the job had completed before."""
        try:
            done = self._done.pop()  # atomic: only one thread gets it
        except IndexError:
            return False
        try:
            done(outcome)
        except Exception:  # an error in the receiver must not end the thread that delivers
            shown = unexpected_error()
            logger.exception("a request's outcome could not be delivered: %s", shown)
            with suppress(Exception):
                done(shown)
        return True

    def cancel(self) -> None:
        """The client is gone: don't run this if it is still queued."""
        self.cancelled = True
        for chunk in self.chunks:
            chunk.cancelled = True

    def split(self, rows: Sequence[int]) -> "list[Job]":
        """Splits the job into one job for each of these numbers of rows; it completes once all of them have."""
        pieces = batching.split(self.inputs, rows)
        reassembly = _Reassembly(self, len(pieces))
        self.chunks = [
            Job(
                self.tenant,
                inputs,
                self.outputs,
                n,
                self.batch_key,
                reassembly.receiver(at),
                start_by_s=self.start_by_s,
                deadline_s=self.deadline_s,
                priority=self.priority,
            )
            for at, (inputs, n) in enumerate(zip(pieces, rows, strict=True))
        ]
        for chunk in self.chunks:
            chunk.enqueued_s, chunk.cancelled = self.enqueued_s, self.cancelled
        return self.chunks


class _Reassembly:
    """Joins the outcomes of a job's chunks. The first failure fails the job and cancels the chunks still queued."""

    def __init__(self, job: Job, count: int) -> None:
        self._job = job
        self._executions: list[Execution | None] = [None] * count
        self._missing = count
        self._lock = threading.Lock()

    def receiver(self, at: int) -> Callable[[Outcome], None]:
        """Receives the outcome of one chunk."""
        return lambda outcome: self._receive(at, outcome)

    def _receive(self, at: int, outcome: Outcome) -> None:
        if isinstance(outcome, ServingError):
            for chunk in self._job.chunks:
                chunk.cancelled = True
            self._job.complete(outcome)
            return
        # The outputs may lie in memory that the next chunk's run overwrites.
        outcome = outcome._replace(outputs=[np.array(array) for array in outcome.outputs])
        with self._lock:
            self._executions[at] = outcome
            self._missing -= 1
            if self._missing:
                return
        executions = [execution for execution in self._executions if execution is not None]
        self._job.complete(
            Execution(
                outputs=batching.concatenate([execution.outputs for execution in executions]),
                queue_s=min(execution.queue_s for execution in executions),
                compute_s=sum(execution.compute_s for execution in executions),
                batch_rows=max(execution.batch_rows for execution in executions),
                input_s=sum(execution.input_s for execution in executions),
                output_s=sum(execution.output_s for execution in executions),
            )
        )
