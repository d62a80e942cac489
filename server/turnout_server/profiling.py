"""Measures what isn't known yet of each model on each device, while nobody waits for that device; later, keeps it true."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from turnout_server.deployments import Deployment
from turnout_server.errors import ServingError
from turnout_server.loading import ModelVersion
from turnout_server.profilestore import ProfileStore
from turnout_server.refreshing import LONGEST_RUN_S as LONGEST_RUN_WHEN_READY_S
from turnout_server.refreshing import Refresher
from turnout_server.warmup import timed_us

logger = logging.getLogger(__name__)

#: Runs of each size; their median counts. Short ones are disturbed more easily, so they get more, for as long as this.
RUNS, MOST_RUNS = 5, 50
RUNS_US = 5000.0
#: A size whose run would take longer than this isn't measured: requests will show.
LONGEST_RUN_S = 1.0
#: Between two looks whether a device is idle.
LOOK_S = 0.02


@dataclass(frozen=True)
class _Task:
    deployment: Deployment
    device: str
    rows: int


class Profiler:
    """A thread that fills in profiles.

    Args:
        idle: whether nobody waits for a device, by its name.
        budget_s: how long `settle` waits at most; 0 switches measuring off.
        works: whether a device is ready.
    """

    def __init__(
        self,
        store: ProfileStore,
        idle: Callable[[str], bool],
        budget_s: float,
        works: Callable[[str], bool] = lambda device: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._idle = idle
        self._refresher = Refresher(store, works, idle, clock)
        self._budget_s = budget_s
        self._tasks: queue.Queue[_Task] = queue.Queue()
        self._open = 0
        self._changed = threading.Condition()
        self._ready = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="profiler", daemon=True)
        self._thread.start()

    def add(self, model: ModelVersion) -> None:
        """Has everything measured that isn't known of a model: batches of 1, 2, 4, ... rows up to its limit."""
        if not self._budget_s:
            return
        self._refresher.add(model)
        for device, deployment in model.deployments.items():
            rows = 1
            while rows <= max(1, model.signature.max_batch_size):
                if deployment.profile.runs(rows) < RUNS:
                    with self._changed:
                        self._open += 1
                    self._tasks.put(_Task(deployment, device, rows))
                rows *= 2

    def settle(self) -> None:
        """Returns once everything is measured or the budget is used up; the rest is measured while devices idle."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._stopping.is_set(), self._budget_s)
            self._ready = True

    def stop(self) -> None:
        """Measures nothing more, and keeps what requests have taught."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        self._refresher.save()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                task = self._tasks.get(timeout=0.1)
            except queue.Empty:
                self._refresher.refresh()
                continue
            self._measure(task)
            del task  # who holds it keeps its model alive
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _measure(self, task: _Task) -> None:
        profile = task.deployment.profile
        expected_us = profile.predict_us(task.rows)
        longest_s = LONGEST_RUN_WHEN_READY_S if self._ready else LONGEST_RUN_S
        if expected_us is None or expected_us > longest_s * 1e6:
            return
        services_us: list[float] = []
        try:
            for _ in range(max(RUNS, min(MOST_RUNS, int(RUNS_US / expected_us)))):
                if not self._wait_until_idle(task.device):
                    return
                services_us.append(timed_us(task.deployment.session, task.rows, joins=task.deployment.joins))
        except ServingError as error:
            logger.debug("model %s with %d rows on %s: %s", task.deployment.key[0], task.rows, task.device, error)
            return
        profile.measure(task.rows, services_us)
        if (key := task.deployment.profile_key) is not None:
            self._store.save(key, profile)

    def _wait_until_idle(self, device: str) -> bool:
        """True once nobody waits for the device; False if the server stops first."""
        while not self._idle(device):
            if self._stopping.wait(LOOK_S):
                return False
        return not self._stopping.is_set()
