"""Tries whether a CPU gets more of a model done with a run on each core than with one on all of them."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from turnout_server.core.errors import Overloaded
from turnout_server.devices.host import resident_bytes, usable_memory_bytes
from turnout_server.devices.sessions import Session
from turnout_server.models.deployments import Deployment
from turnout_server.models.files import weight_bytes
from turnout_server.models.per_core import PerCore, Rates
from turnout_server.models.profile_store import ProfileKey
from turnout_server.scheduling.batching import MIN_GAIN
from turnout_server.scheduling.per_core import MOST_ROWS, least_rows
from turnout_server.scheduling.profiles import SETTLED_RUNS, Profile

#: Both ways take turns so often, and the medians count.
TURNS = SETTLED_RUNS
#: Runs side by side go on for so long, because threads don't start at once.
BURST_US = 10_000.0
#: Runs that are shorter are made in the transport's thread.
SHORTEST_RUN_US = 250.0
#: Runs that would take longer aren't tried.
LONGEST_RUN_US = 500_000.0
#: What ONNX Runtime takes for a model while it loads it, as a multiple of its file.
LOADING = 3
#: The share of the memory that this process may use which runs on each core may fill.
MEMORY_SHARE = 0.8


def rates(deployment: Deployment, profile: Profile) -> Rates:
    """What is carried in both ways.

    Args:
        profile: of runs on a core each.
    """
    rows = deployment.effective_max_batch
    together_us = deployment.predict_us(rows)
    best = max((int(size) / run["service_us"] for size, run in profile.saved().items()), default=0.0)
    return Rates(rows / together_us * 1e6 if together_us else 0.0, deployment.cores * best * 1e6)


def is_open(deployment: Deployment, longest_us: float = LONGEST_RUN_US) -> bool:
    """Whether there is a choice: a device that may have a run on each core, runs that aren't too long, and the memory."""
    if deployment.cores < 2 or deployment.file is None:
        return False
    alone_us = deployment.predict_us(1)
    if alone_us is None or not SHORTEST_RUN_US <= alone_us <= longest_us / deployment.cores:
        return False
    return _fits(LOADING * weight_bytes(deployment.file.path))


def _fits(more_bytes: int) -> bool:
    return resident_bytes() + more_bytes < MEMORY_SHARE * usable_memory_bytes()


def opened(deployment: Deployment) -> Session:
    """The model with a single thread, which is the one that serves it if that is so small that it has no more.

    Raises:
        ServingError: it can't be opened.
    """
    assert deployment.file is not None
    return deployment.session if deployment.file.options.intra_op_threads == 1 else deployment.file.of_one_thread().open()


class CoreTrial:
    """A trial in turns, each of which needs an idle device.

    Args:
        deployment: its profile knows how many rows are best together.
        session: the model with a single thread.
        longest_us: how long a run may take.

    Raises:
        ServingError: trial inputs don't run, or there isn't the memory for a run on each core.
    """

    def __init__(self, deployment: Deployment, session: Session, longest_us: float = LONGEST_RUN_US) -> None:
        self._deployment = deployment
        self._session = session
        self._longest_us = longest_us
        most = deployment.effective_max_batch
        self._rows = most if (deployment.predict_us(most) or 0.0) <= longest_us else 1
        before = resident_bytes()
        deployment.timed_us(1, session)
        self._row_bytes = max(0, resident_bytes() - before) * deployment.cores
        if not _fits(self._row_bytes):
            raise Overloaded(
                f"{self._row_bytes / 2**20:.0f} MiB for a run on each of {deployment.cores} cores may not be there"
            )
        self._together_us: list[float] = []
        self._per_core_us: defaultdict[int, list[float]] = defaultdict(list)

    def turn(self) -> None:
        """Runs once together, and on each core with few rows; as many as helped in the first turn.

        Raises:
            ServingError: trial inputs don't run.
        """
        self._together_us.append(self._deployment.timed_us(self._rows))
        for rows in tuple(self._per_core_us) or self._growing():
            self._per_core_us[rows].append(self._side_by_side_us(rows))

    def profile(self) -> Profile:
        """How long runs on a core each take. What was seen of runs on all cores meanwhile goes into their profile.

        The sessions give back the memory that larger runs took.

        Raises:
            ServingError: trial inputs don't run.
        """
        for session in (self._session, self._deployment.session):
            self._deployment.trim(session)
        self._deployment.profile.measure(self._deployment.executed_rows(self._rows), self._together_us)
        profile = Profile()
        for rows, taken_us in self._per_core_us.items():
            profile.measure(rows, taken_us)
        return profile

    def _growing(self) -> Iterator[int]:
        """1, 2 and 4 rows, for as long as more of them make a row cheaper, and there are the time and the memory."""
        rows, row_us, most = 1, math.inf, self._deployment.max_rows if self._deployment.batchable else 1
        while rows <= min(most, MOST_ROWS):
            yield rows
            taken_us = self._per_core_us[rows][0]
            helps = taken_us / rows < row_us * (1 - MIN_GAIN)
            if not helps or 2 * taken_us > self._longest_us or not _fits(2 * rows * self._row_bytes):
                return
            rows, row_us = 2 * rows, taken_us / rows

    def _side_by_side_us(self, rows: int) -> float:
        """What a run takes while every other core has one, too."""
        cores = self._deployment.cores
        runs = math.ceil(BURST_US / (cores * (self._deployment.predict_us(rows) or BURST_US)))

        def work(_: int) -> list[float]:
            return [self._deployment.timed_us(rows, self._session) for _ in range(runs)]

        with ThreadPoolExecutor(cores) as pool:
            return statistics.median(taken_us for each in pool.map(work, range(cores)) for taken_us in each)


def per_core(deployment: Deployment, session: Session, profile: Profile) -> PerCore | None:
    """The way to run on a core each, with as many rows as are known to fit a run; None if it doesn't pay."""
    most = deployment.max_rows if deployment.batchable and profile.runs(2) else 1
    way = PerCore(session, deployment.cores, profile, most)
    if not rates(deployment, profile).pays or (least := least_rows(deployment, way, deployment.cores)) is None:
        return None
    return replace(way, least_rows=least)


def key_of(deployment: Deployment) -> ProfileKey | None:
    """What the profile of runs on a core each is kept under; None if profiles aren't kept."""
    key = deployment.profile_key
    return key and replace(key, options=f"{key.options}, a run on each of {deployment.cores} cores")
