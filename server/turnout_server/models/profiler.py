"""Measures what isn't known yet of each model on each device, while nobody waits for that device; later, keeps it true."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from turnout_server.core.errors import ServingError
from turnout_server.devices.sessions import Session
from turnout_server.models import core_trial, refresher
from turnout_server.models.core_trial import CoreTrial
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.refresher import Refresher
from turnout_server.scheduling.profiles import Profile

logger = logging.getLogger(__name__)

#: Runs of each size; their median counts. Short ones are disturbed more easily, so they get more, until they have taken this.
RUNS, MOST_RUNS = 5, 50
RUNS_US = 5000.0
#: A size whose run would take longer than this isn't measured: requests will show.
LONGEST_RUN_S = 1.0
#: Between two looks whether a device is idle.
LOOK_S = 0.02
#: How long a measurement in progress is waited for when the server stops.
STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class _Task:
    """The sizes of a model's runs on a device that aren't known, smallest first."""

    deployment: Deployment
    device: str
    sizes: list[int]


class Profiler:
    """A thread that fills in profiles.

    Args:
        idle: whether nobody waits for a device, by its name.
        budget_s: how long `settle` waits at most; 0 switches measuring off.
        tries_cores: whether models may be loaded once more to have a run on each core.
        works: whether a device is ready.
    """

    def __init__(
        self,
        store: ProfileStore,
        idle: Callable[[str], bool],
        budget_s: float,
        works: Callable[[str], bool] = lambda device: True,
        tries_cores: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._idle = idle
        self._refresher = Refresher(store, works, idle, clock)
        self._budget_s = budget_s
        self._tries_cores = tries_cores
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
        for version in (model, *model.variants.values()):
            self._refresher.add(version)
            for device, deployment in version.deployments.items():
                largest = deployment.max_rows if deployment.batchable else version.signature.max_batch_size
                worth_measuring = deployment.sizes(largest)
                sizes = [rows for rows in worth_measuring if deployment.profile.runs(rows) < RUNS]
                if sizes or (self._tries_cores and deployment.cores):
                    with self._changed:
                        self._open += 1
                    self._tasks.put(_Task(deployment, device, sizes))

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
        self._thread.join(STOP_TIMEOUT_S)  # a run that it measures may never end
        self._refresher.save()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                task = self._tasks.get(timeout=0.1)
            except queue.Empty:
                self._refresher.refresh()
                continue
            self._measure(task)
            if self._tries_cores and core_trial.is_open(task.deployment, self._longest_us()):
                self._try_cores(task.deployment)
            del task  # who holds it keeps its model alive
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _measure(self, task: _Task) -> None:
        """Runs the sizes in turns: what else the machine does meanwhile then makes none of them look worse than the others."""
        deployment, profile = task.deployment, task.deployment.profile
        taken_us: dict[int, list[float]] = {rows: [] for rows in task.sizes}
        for _ in range(MOST_RUNS):
            for rows, runs_us in list(taken_us.items()):
                if not self._due(len(runs_us), profile.predict_us(rows)):
                    continue
                if not self._wait_until_idle(task.device):
                    return
                try:
                    runs_us.append(deployment.timed_us(rows))
                except ServingError as error:
                    logger.debug("model %s with %d rows on %s: %s", deployment.key[0], rows, task.device, error)
                    del taken_us[rows]
                else:
                    profile.measure(rows, runs_us)
        deployment.review_batch_size()
        if any(rows > 1 and runs_us for rows, runs_us in taken_us.items()) and self._wait_until_idle(task.device):
            with suppress(ServingError):
                deployment.trim()
        if deployment.profile_key is not None:
            self._store.save(deployment.profile_key, profile)

    def _try_cores(self, deployment: Deployment) -> None:
        """Finds out whether a run on each core gets more done, and has the model loaded for it if so."""
        key = core_trial.key_of(deployment)
        kept = self._store.load(key) if key else None
        if kept is not None:
            deployment.rates = core_trial.rates(deployment, kept)
            if not deployment.rates.pays:
                return
        try:
            session = core_trial.opened(deployment)
            profile = kept or self._tried(deployment, session)
        except ServingError as error:
            logger.debug("model %s is not tried with a run on each core: %s", deployment.key[0], error)
            return
        if profile is None:
            return
        if key is not None:
            self._store.save(key, profile)
        deployment.rates = core_trial.rates(deployment, profile)
        deployment.per_core = core_trial.per_core(deployment, session, profile)
        logger.info(
            "model %s version %s on %s: a run on each of %d cores carries %.3g/s, one on all of them %.3g/s",
            *deployment.key,
            deployment.cores,
            deployment.rates.per_core,
            deployment.rates.together,
        )

    def _tried(self, deployment: Deployment, session: Session) -> Profile | None:
        """How long runs on a core each take; None if the server stops first."""
        if not self._wait_until_idle(deployment.device):
            return None
        trial = CoreTrial(deployment, session, self._longest_us())
        for _ in range(core_trial.TURNS):
            if not self._wait_until_idle(deployment.device):
                return None
            trial.turn()
        return trial.profile()

    def _longest_us(self) -> float:
        """How long a run of a trial may take."""
        return refresher.LONGEST_RUN_S * 1e6 if self._ready else core_trial.LONGEST_RUN_US

    def _due(self, runs: int, expected_us: float | None) -> bool:
        """Whether a size gets one more run after so many."""
        longest_s = refresher.LONGEST_RUN_S if self._ready else LONGEST_RUN_S
        if expected_us is None or expected_us > longest_s * 1e6:
            return False
        return runs < max(RUNS, min(MOST_RUNS, int(RUNS_US / expected_us)))

    def _wait_until_idle(self, device: str) -> bool:
        """True once nobody waits for the device; False if the server stops first."""
        while not self._idle(device):
            if self._stopping.wait(LOOK_S):
                return False
        return not self._stopping.is_set()
