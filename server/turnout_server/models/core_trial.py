"""Tries whether a CPU gets more of a model done with a run on each core than with one on all of them."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from turnout_server.core.errors import Overloaded
from turnout_server.devices.host import resident_bytes, usable_memory_bytes
from turnout_server.devices.sessions import Session
from turnout_server.models.deployments import Deployment
from turnout_server.models.per_core import PerCore, Rates
from turnout_server.models.profile_store import ProfileKey
from turnout_server.scheduling.batching import MIN_GAIN
from turnout_server.scheduling.per_core import MOST_ROWS, least_requests
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


class Measured(NamedTuple):
    """What a trial measured: runs on all cores, and runs of which every core had one."""

    together: Profile
    per_core: Profile

    def rates(self, cores: int) -> Rates:
        """What is carried in both ways."""
        return Rates(_rows_per_s(self.together), cores * _rows_per_s(self.per_core))


def _rows_per_s(profile: Profile) -> float:
    """Of the size that gets most done."""
    return max((int(rows) / run["service_us"] * 1e6 for rows, run in profile.saved().items()), default=0.0)


def is_open(deployment: Deployment, longest_us: float = LONGEST_RUN_US) -> bool:
    """Whether there is a choice: a device that may have a run on each core, runs that aren't too long, and the memory."""
    if deployment.cores < 2 or deployment.file is None:
        return False
    alone_us = deployment.predict_us(1)
    if alone_us is None or not SHORTEST_RUN_US <= alone_us <= longest_us / deployment.cores:
        return False
    return _fits(LOADING * deployment.file.weights.bytes)


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
    """A trial in turns, each of which needs an idle device. It doesn't hold the model, which may be replaced in between.

    Args:
        deployment: its profile knows how many rows are best together.
        session: the model with a single thread.
        longest_us: how long a run may take.

    Raises:
        ServingError: trial inputs don't run, or there isn't the memory for a run on each core.
    """

    def __init__(self, deployment: Deployment, session: Session, longest_us: float = LONGEST_RUN_US) -> None:
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

    def turn(self, deployment: Deployment) -> None:
        """Runs once together, and on each core with few rows; as many as helped in the first turn.

        Raises:
            ServingError: trial inputs don't run.
        """
        self._together_us.append(deployment.timed_us(self._rows))
        for rows in tuple(self._per_core_us) or self._growing(deployment):
            self._per_core_us[rows].append(self._side_by_side_us(deployment, rows))

    def measured(self, deployment: Deployment) -> Measured:
        """How long runs took both ways. What was seen of runs on all cores goes into the model's profile, too.

        The sessions give back the memory that larger runs took.

        Raises:
            ServingError: trial inputs don't run.
        """
        for session in (self._session, deployment.session):
            deployment.trim(session)
        deployment.profile.measure(deployment.executed_rows(self._rows), self._together_us)
        measured = Measured(Profile(), Profile())
        measured.together.measure(self._rows, self._together_us)
        for rows, taken_us in self._per_core_us.items():
            measured.per_core.measure(rows, taken_us)
        return measured

    def _growing(self, deployment: Deployment) -> Iterator[int]:
        """1, 2 and 4 rows, for as long as more of them make a row cheaper, and there are the time and the memory."""
        rows, row_us, most = 1, math.inf, deployment.max_rows if deployment.batchable else 1
        while rows <= min(most, MOST_ROWS):
            yield rows
            taken_us = self._per_core_us[rows][0]
            helps = taken_us / rows < row_us * (1 - MIN_GAIN)
            if not helps or 2 * taken_us > self._longest_us or not _fits(2 * rows * self._row_bytes):
                return
            rows, row_us = 2 * rows, taken_us / rows

    def _side_by_side_us(self, deployment: Deployment, rows: int) -> float:
        """What a run takes while every other core has one, too."""
        cores = deployment.cores
        runs = math.ceil(BURST_US / (cores * (deployment.predict_us(rows) or BURST_US)))

        def work(_: int) -> list[float]:
            return [deployment.timed_us(rows, self._session) for _ in range(runs)]

        with ThreadPoolExecutor(cores) as pool:
            return statistics.median(taken_us for each in pool.map(work, range(cores)) for taken_us in each)


def per_core(deployment: Deployment, session: Session, measured: Measured) -> PerCore | None:
    """The way to run on a core each, with as many rows as were tried; None if it doesn't pay."""
    most = max(map(int, measured.per_core.saved())) if deployment.batchable else 1  # there may be the memory for no more
    way = PerCore(session, deployment.cores, measured.per_core, most)
    if not measured.rates(deployment.cores).pays or (least := least_requests(deployment, way, deployment.cores)) is None:
        return None
    return replace(way, least_requests=least)


def keys_of(deployment: Deployment) -> tuple[ProfileKey, ProfileKey] | None:
    """What the two profiles of a trial are kept under, as in `Measured`; None if profiles aren't kept."""
    key, cores = deployment.profile_key, deployment.cores
    if key is None:
        return None
    return (
        replace(key, options=f"{key.options}, runs on all of {cores} cores beside those on each"),
        replace(key, options=f"{key.options}, a run on each of {cores} cores"),
    )
