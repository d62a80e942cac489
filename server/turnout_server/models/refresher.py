"""Keeps profiles true while the server runs: of devices that requests pass by, and on disk.

A device that `auto` doesn't choose has no runs that would show that it has become faster, and nobody's request is sent to a
worse device to find out. So it gets a run of made-up inputs now and then, while nobody waits for it. A model that nobody asks
for gets none: its profiles are as old on one device as on the other, and an idle server is to stay idle.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from turnout_server.core.errors import ServingError
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.profile_store import ProfileStore
from turnout_server.scheduling.profiles import Profile

logger = logging.getLogger(__name__)

#: Between two looks at a model; so much may a profile of a device that is passed by be older than those of the others.
REFRESH_S = 60.0
#: A run that would take longer isn't made while the server is ready: a request that comes meanwhile would have to wait for it.
LONGEST_RUN_S = 0.05


@dataclass
class _Look:
    """What was seen of a model: when, how many runs its profile on each device had, and which devices are to get one."""

    at_s: float
    runs: dict[str, int]
    due: set[str] = field(default_factory=set)


class Refresher:
    """Refreshes and saves the profiles of the models that it was told of, for as long as they are loaded.

    Args:
        works: whether a device is ready, by its name.
        idle: whether nobody waits for a device.
    """

    def __init__(
        self,
        store: ProfileStore,
        works: Callable[[str], bool],
        idle: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._works = works
        self._idle = idle
        self._clock = clock
        # Weak: a model that is unloaded is gone from here, too, whatever was planned with it.
        self._looks: WeakKeyDictionary[ModelVersion, _Look] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def add(self, model: ModelVersion) -> None:
        """One more model. What is known of it now counts as new."""
        with self._lock:
            self._looks[model] = _Look(self._clock(), _runs(model))

    def refresh(self) -> None:
        """Makes the runs that are due on devices that idle; for the rest, it is to be called again soon."""
        for model, look in self._known():
            if self._clock() - look.at_s >= REFRESH_S:
                self._look(model, look)
            for device in sorted(look.due):
                deployment = model.deployments[device]
                if deployment.total_runs != look.runs[device]:  # a request was quicker
                    look.due.discard(device)
                elif self._works(device) and self._idle(device):
                    look.due.discard(device)
                    _run(deployment)
                    look.runs[device] = deployment.total_runs
                    self._save(model, {device})

    def save(self) -> None:
        """Writes down what was learnt since the last look."""
        for model, look in self._known():
            self._save(model, _ran(model, look))

    def _known(self) -> list[tuple[ModelVersion, _Look]]:
        with self._lock:
            return list(self._looks.items())

    def _look(self, model: ModelVersion, look: _Look) -> None:
        """Finds which devices requests used and which they passed by, and saves what they taught."""
        ran = _ran(model, look)
        working = {device for device in model.deployments if self._works(device)}
        look.due = working - ran if ran and len(working) > 1 else set()
        look.at_s, look.runs = self._clock(), _runs(model)
        self._save(model, ran)

    def _save(self, model: ModelVersion, devices: set[str]) -> None:
        for device in devices:
            deployment = model.deployments[device]
            if deployment.profile_key is not None:
                self._store.save(deployment.profile_key, deployment.profile)


def _runs(model: ModelVersion) -> dict[str, int]:
    return {device: deployment.total_runs for device, deployment in model.deployments.items()}


def _ran(model: ModelVersion, look: _Look) -> set[str]:
    """The devices that had runs since."""
    return {device for device, runs in _runs(model).items() if runs != look.runs[device]}


def _usual_rows(profile: Profile) -> int:
    """The size of most of its runs; of several, the smallest."""
    estimates = profile.saved()
    return int(max(estimates, key=lambda rows: estimates[rows]["runs"], default="1"))


def _run(deployment: Deployment) -> None:
    """One run of as many rows as it mostly had, if that is known to be short."""
    profile = deployment.profile
    rows = _usual_rows(profile)
    expected_us = profile.predict_us(rows)
    if expected_us is None or expected_us > LONGEST_RUN_S * 1e6:
        return
    try:
        deployment.observe(rows, deployment.timed_us(rows))
    except ServingError as error:  # the device was lost, say: its engine sees to that
        logger.debug("the profile of model %s on %s is not refreshed: %s", deployment.key[0], deployment.key[2], error)
