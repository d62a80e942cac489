"""Measures what isn't known yet of each model on each device, while nobody waits for that device; later, keeps it true."""

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from turnout_server.core.errors import ServingError
from turnout_server.devices.sessions import Session
from turnout_server.models import core_trial, refresher
from turnout_server.models.core_trial import CoreTrial, Measured
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.refresher import Refresher

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
    """A model on a device, and the sizes of its runs there that aren't known, smallest first.

    It doesn't keep the model, which may be replaced long before the device idles.

    Attributes:
        deployment: gives the model for as long as it is there, and then None.
    """

    deployment: Callable[[], Deployment | None]
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
                    self._tasks.put(_Task(weakref.ref(deployment), device, sizes))

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
                self._next()
            except Exception:  # whatever is wrong with one model, others are measured
                logger.exception("a model was not measured")

    def _next(self) -> None:
        """Does the next task, or what is due while there is none."""
        try:
            task = self._tasks.get(timeout=0.1)
        except queue.Empty:
            self._refresher.refresh()
            return
        try:
            self._measure(task)
            if self._has_choice(task):
                self._try_cores(task)
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _measure(self, task: _Task) -> None:
        """Runs the sizes in turns: what else the machine does meanwhile then makes none of them look worse than the others."""
        taken_us: dict[int, list[float]] = {rows: [] for rows in task.sizes}
        for _ in range(MOST_RUNS):
            for rows, runs_us in list(taken_us.items()):
                if not self._measure_once(task, rows, runs_us):
                    del taken_us[rows]
        if any(rows > 1 and runs_us for rows, runs_us in taken_us.items()):
            self._trim(task)
        if (deployment := task.deployment()) is not None:
            deployment.review_batch_size()
            if deployment.profile_key is not None:
                self._store.save(deployment.profile_key, deployment.profile)

    def _measure_once(self, task: _Task, rows: int, runs_us: list[float]) -> bool:
        """One more run of a size if it is due; False if it doesn't run, or the model is gone."""
        known = task.deployment()
        if known is None:
            return False
        if not self._due(len(runs_us), known.profile.predict_us(rows)):
            return True
        del known
        if (deployment := self._when_idle(task)) is None:
            return False
        try:
            runs_us.append(deployment.timed_us(rows))
        except ServingError as error:
            logger.debug("model %s with %d rows on %s: %s", deployment.key[0], rows, task.device, error)
            return False
        deployment.profile.measure(rows, runs_us)
        return True

    def _trim(self, task: _Task) -> None:
        if (deployment := self._when_idle(task)) is not None:
            with suppress(ServingError):
                deployment.trim()

    def _has_choice(self, task: _Task) -> bool:
        """Whether the model may have a run on each core."""
        deployment = task.deployment()
        return self._tries_cores and deployment is not None and core_trial.is_open(deployment, self._longest_us())

    def _try_cores(self, task: _Task) -> None:
        """Finds out whether a run on each core gets more done, and has the model loaded for it if so."""
        kept = self._kept(task)
        if (session := self._opened(task, kept)) is None:
            return
        measured = kept or self._tried(task, session)
        deployment = task.deployment()
        if measured is None or deployment is None:
            return
        if kept is None:
            for key, profile in zip(core_trial.keys_of(deployment) or (), measured, strict=False):
                self._store.save(key, profile)
        deployment.rates = measured.rates(deployment.cores)
        deployment.per_core = core_trial.per_core(deployment, session, measured)
        logger.info(
            "model %s version %s on %s: a run on each of %d cores carries %.3g/s, one on all of them %.3g/s",
            *deployment.key,
            deployment.cores,
            deployment.rates.per_core,
            deployment.rates.together,
        )

    def _opened(self, task: _Task, kept: Measured | None) -> Session | None:
        """The model with a single thread; None if it is gone, it is known not to pay, or it can't be opened."""
        if (deployment := task.deployment()) is None:
            return None
        if kept is not None:
            deployment.rates = kept.rates(deployment.cores)
            if not deployment.rates.pays:
                return None
        try:
            return core_trial.opened(deployment)
        except ServingError as error:
            logger.debug("model %s can't be opened for a run on each core: %s", deployment.key[0], error)
            return None

    def _kept(self, task: _Task) -> Measured | None:
        """What an earlier start measured."""
        if (deployment := task.deployment()) is None or (keys := core_trial.keys_of(deployment)) is None:
            return None
        together, per_core = (self._store.load(key) for key in keys)
        return Measured(together, per_core) if together and per_core and together.saved() and per_core.saved() else None

    def _tried(self, task: _Task, session: Session) -> Measured | None:
        """How long runs take both ways; None if the server stops first, the model is gone, or it can't be tried."""
        trial: CoreTrial | None = None
        try:
            for _ in range(core_trial.TURNS):
                if (trial := self._turn(task, session, trial)) is None:
                    return None
            deployment = self._when_idle(task)
            return trial.measured(deployment) if trial and deployment else None
        except ServingError as error:
            logger.debug("a model on %s is not tried with a run on each core: %s", task.device, error)
            return None

    def _turn(self, task: _Task, session: Session, trial: CoreTrial | None) -> CoreTrial | None:
        """A trial, begun here unless it has begun before, after one more turn; None if the model is gone or the server stops.

        Raises:
            ServingError: it can't be tried.
        """
        if (deployment := self._when_idle(task)) is None:
            return None
        trial = trial or CoreTrial(deployment, session, self._longest_us())
        trial.turn(deployment)
        return trial

    def _longest_us(self) -> float:
        """How long a run of a trial may take."""
        return refresher.LONGEST_RUN_S * 1e6 if self._ready else core_trial.LONGEST_RUN_US

    def _due(self, runs: int, expected_us: float | None) -> bool:
        """Whether a size gets one more run after so many."""
        longest_s = refresher.LONGEST_RUN_S if self._ready else LONGEST_RUN_S
        if expected_us is None or expected_us > longest_s * 1e6:
            return False
        return runs < max(RUNS, min(MOST_RUNS, int(RUNS_US / expected_us)))

    def _when_idle(self, task: _Task) -> Deployment | None:
        """The model once nobody waits for its device; None if it is gone or the server stops first.

        Whoever calls this holds no other reference to the model: waiting may take for ever.
        """
        while not self._stopping.is_set():
            if task.deployment() is None:
                return None
            if self._idle(task.device):
                return task.deployment()
            self._stopping.wait(LOOK_S)
        return None
