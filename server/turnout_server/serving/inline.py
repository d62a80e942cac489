"""Runs very short jobs in the transport's own thread: waking a worker would cost more than a run of 20 us.

A transport that polls collects what has arrived, hands it to its handlers and then calls `run`: the jobs that accumulated
meanwhile are batched and run at once. Nothing else submits here, so no lock is needed.
"""

import time
from collections.abc import Callable, Mapping

from turnout_server.core.errors import Unavailable
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import batching
from turnout_server.serving.batch_run import BatchRunner, drop
from turnout_server.serving.job import Job

#: A run that is shorter than this isn't worth a hand-over to another thread, which costs 40 to 100 us.
INLINE_US = 250.0
#: How long the transport's thread may be kept from polling.
INLINE_BUDGET_US = 500.0
#: A deployment may be in debt by this much and still run inline, because other load may have disturbed a single run.
MAX_DEBT_S = 1.0


class InlineRunner:
    """Runs the inline jobs of one transport thread. All methods but `waiting` and `waiting_for` belong to that thread.

    Args:
        runners: by device: the devices whose sessions live in this process.
        limit: how many jobs may wait; further ones go to the device's queue, which refuses what is too much.
    """

    def __init__(
        self, runners: Mapping[str, BatchRunner], limit: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runners = runners
        self._limit = limit
        self._clock = clock
        self._jobs: list[Job] = []

    def accepts(self, deployment: Deployment, rows: int) -> bool:
        """Whether a request of this many rows is short enough to run here, whatever its values are."""
        if (
            deployment.device not in self._runners
            or deployment.hazards
            or deployment.max_delay_s
            or len(self._jobs) >= self._limit
        ):
            return False
        fastest_us = deployment.fastest_us(rows)
        if fastest_us is None or fastest_us >= INLINE_US:
            return False
        return not deployment.debt_free_s or self._clock() + MAX_DEBT_S >= deployment.debt_free_s

    def submit(self, job: Job) -> None:
        """Adds a job that `accepts` allowed; it runs in the next call of `run`."""
        job.enqueued_s = self._clock()
        self._jobs.append(job)

    def run(self) -> bool:
        """Runs what was submitted, for `INLINE_BUDGET_US` at most; True if jobs are left for the next call.

        The rest isn't handed to a worker: two threads that take turns at the interpreter do less than one.
        """
        if not self._jobs:
            return False
        until_s = self._clock() + INLINE_BUDGET_US * 1e-6
        while self._jobs and (now_s := self._clock()) < until_s:
            selection, self._jobs = batching.select(self._jobs, now_s)
            began_s = time.thread_time()
            drop(selection)
            if selection.batch:
                tenant = selection.batch[0].tenant
                self._runners[tenant.device].run(selection.batch)
                cpu_s = time.thread_time() - began_s
                if cpu_s > INLINE_BUDGET_US * 1e-6 * (1 + len(selection.batch)):
                    # It was fast when it was measured, but its time depends on its data, for example. Each slow run counts as
                    # a debt of a hundred times its length, so this model can't take over a hundredth of the thread's time.
                    tenant.debt_free_s = max(tenant.debt_free_s, now_s) + 100 * cpu_s
        return bool(self._jobs)

    def waiting(self, device: str) -> int:
        """How many jobs of a device wait here. May be called from any thread."""
        return sum(job.tenant.device == device for job in tuple(self._jobs))

    def waiting_for(self, deployment: Deployment) -> int:
        """How many jobs for a model on its device wait here. May be called from any thread."""
        return sum(job.tenant is deployment for job in tuple(self._jobs))

    def stop(self) -> None:
        """Fails what is left."""
        left, self._jobs = self._jobs, []
        for job in left:
            job.complete(Unavailable("the server is shutting down"))
