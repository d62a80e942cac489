"""Runs a batch on a device's session and completes every job in it."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np

from turnout_server.core.errors import Cancelled, DeadlineExceeded, DeviceLost, ServingError, unexpected_error
from turnout_server.core.metrics import Metrics
from turnout_server.devices.run_limit import limited
from turnout_server.models.deployments import Deployment
from turnout_server.models.per_core import PerCore
from turnout_server.scheduling import batching
from turnout_server.scheduling.entries import Selection
from turnout_server.serving.job import Execution, Job

#: A run of a hazardous model without a deadline ends after this long, and after this many times its usual length.
ENDLESS_S, ENDLESS_FACTOR = 10.0, 20.0

logger = logging.getLogger(__name__)


class BatchRunner:
    """Runs batches for one device, in the caller's thread.

    Args:
        metrics: records every run.
    """

    def __init__(self, device: str, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._metrics = metrics
        self._clock = clock

    def run(self, batch: Sequence[Job], *, per_core: bool = False) -> float:
        """Runs a batch. Whatever happens, every job in it completes and nothing is raised.

        Args:
            per_core: on one core, while others have runs of their own.

        Returns:
            The seconds of the device that it took.
        """
        started_s = self._clock()
        tenant = batch[0].tenant
        way = tenant.way(per_core=per_core)
        limit = nullcontext() if not tenant.hazards else limited(self._limit_s(batch))
        try:
            with limit, way.session.stage([job.inputs for job in batch], batch[0].outputs) as run:
                staged_s = self._clock()
                outputs = run()
                ran_s = self._clock()
                per_job = batching.scatter(outputs, [job.rows for job in batch])
                self._complete(batch, way, per_job, (started_s, staged_s, ran_s))
        except ServingError as error:
            if len(batch) == 1 or (isinstance(error, DeviceLost) and error.suspect):
                _fail(batch, error)
            else:  # one bad request fails the run of all, and running each alone shows whose it was
                for job in batch:
                    self.run([job], per_core=per_core)
        except BaseException:
            shown = unexpected_error()
            logger.exception("a batch of %d failed on %s: %s", len(batch), self._device, shown)
            _fail(batch, shown)
        return (self._clock() - started_s) / _cores_of(way)

    def _limit_s(self, batch: Sequence[Job]) -> float:
        """When a run of a hazardous model ends at the latest: at the last deadline, or long after it should have ended."""
        usual_us = batch[0].tenant.predict_us(sum(job.rows for job in batch)) or 0.0
        longest_s = self._clock() + max(ENDLESS_S, ENDLESS_FACTOR * usual_us * 1e-6)
        return max(longest_s if job.deadline_s is None else job.deadline_s for job in batch)

    def _complete(
        self,
        batch: Sequence[Job],
        way: Deployment | PerCore,
        per_job: Sequence[list[np.ndarray]],
        times_s: tuple[float, float, float],
    ) -> None:
        """Records a run and hands out its outputs, which may lie in memory that the next run overwrites.

        Args:
            way: how it ran.
            times_s: when it began, when its inputs were staged, and when it had run.
        """
        started_s, staged_s, ran_s = times_s
        ended_s = self._clock()
        input_s, compute_s, output_s = staged_s - started_s, ran_s - staged_s, ended_s - ran_s
        rows = batch[0].rows if len(batch) == 1 else sum(job.rows for job in batch)
        if rows:  # an empty request says nothing about service time
            way.observe(rows, (ended_s - started_s) * 1e6)
        series = self._metrics.series(batch[0].tenant.key)
        series.batch_rows.observe(rows)
        series.batches[rows].observe(input_s, compute_s, output_s, _cores_of(way))
        for job, own in zip(batch, per_job, strict=True):
            queue_s = started_s - job.enqueued_s
            series.late += not job.complete(Execution(own, queue_s, compute_s, rows, input_s, output_s))


def _cores_of(way: Deployment | PerCore) -> int:
    """How many such runs take the whole device."""
    return way.cores if isinstance(way, PerCore) else 1


def drop(selection: Selection[Job]) -> None:
    """Answers the jobs of a selection that won't run."""
    for job in selection.cancelled:
        job.complete(Cancelled("the caller cancelled the request while it waited"))
    for job in selection.expired:
        job.complete(DeadlineExceeded(f"Request timeout expired while waiting for device '{job.tenant.device}'"))


def _fail(batch: Sequence[Job], error: ServingError) -> None:
    for job in batch:
        job.complete(error)
