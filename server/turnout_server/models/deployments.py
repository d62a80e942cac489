"""A model version on one device: what runs it, how long that takes, and how its requests wait."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turnout_server.core.metrics import Key
from turnout_server.core.model_config import Queue
from turnout_server.devices.sessions import Session
from turnout_server.models.profile_store import ProfileKey
from turnout_server.models.verification import Parity
from turnout_server.scheduling import batching
from turnout_server.scheduling.entries import Account
from turnout_server.scheduling.exploration import Exploration
from turnout_server.scheduling.profiles import Profile

#: Runs after which the best batch is worked out anew.
RETHINK_RUNS = 8


@dataclass(frozen=True)
class DeviceReport:
    """What loading a version on a device showed.

    Attributes:
        load_s: seconds it took to open.
        placement: how many nodes of its graph each execution provider runs.
        parity: how far its outputs are from the right ones.
    """

    load_s: float
    placement: Mapping[str, int]
    parity: Parity


@dataclass(eq=False)
class Deployment:
    """A model version on one device; the tenant of that device's backlog.

    Attributes:
        key: model, version, device.
        max_rows: the most rows that a run may join; 1 if its requests can't share one.
        joins: whether rows may be joined, and so also taken apart.
        instances: how many of its runs may go on at once; 0 for any number.
        target_us: how soon its requests should be answered; None if nobody said.
        profile_key: what its profile is true of; None where profiles aren't kept.
        report: what loading it showed.
        even_at_s: when it will have made up for the time that it held the thread which brings requests.
    """

    key: Key
    session: Session
    profile: Profile = field(default_factory=Profile)
    max_rows: int = 1
    joins: bool = True
    queue: Queue = field(default_factory=Queue)
    instances: int = 0
    weight: float = 1.0
    target_us: float | None = None
    precision: str = "fp32"
    profile_key: ProfileKey | None = None
    report: DeviceReport = field(default_factory=lambda: DeviceReport(0.0, {}, Parity(None, "")))
    account: Account = field(default_factory=Account)
    even_at_s: float = 0.0
    _cap: int = 0
    _rethink_at: int = 0
    _exploration: Exploration = field(default_factory=Exploration)

    def __post_init__(self) -> None:
        self.preferred_rows = self.queue.preferred_rows
        self.max_delay_s = self.queue.max_delay_us * 1e-6
        self.target_s = None if self.target_us is None else self.target_us * 1e-6
        self.predict_us = self.profile.predict_us
        self.likely_us = self.profile.likely_us

    @property
    def cap(self) -> int:
        """The most rows worth joining in one run, by what runs have taken so far; now and then another, to see."""
        if not self.joins:
            return 1
        if self.profile.total_runs >= self._rethink_at:
            self._rethink_at = self.profile.total_runs + RETHINK_RUNS
            best = batching.best_rows(self.profile.settled_us, self.max_rows, self.target_us)
            others = [rows for rows in batching.neighbours(best, self.max_rows) if self._may_try(rows)]
            self._cap = self._exploration.rows(best, others, self.profile.settled_us)
        return max(self._cap, *self.preferred_rows) if self.preferred_rows else self._cap

    def _may_try(self, rows: int) -> bool:
        """Whether a run of so many rows was in time before."""
        fastest_us = self.profile.fastest_us(rows) if self.profile.settled_us(rows) else None
        return fastest_us is not None and (self.target_us is None or fastest_us <= self.target_us)

    def begin_by_s(self, rows: int, finish_s: float | None, begin_s: float | None) -> float | None:
        """When a run of so many rows isn't worth beginning any more, on the clock that the arguments are on.

        Args:
            finish_s: when its answer isn't wanted any more: even the fastest run that was ever seen would be late.
            begin_s: when it has waited long enough.
        """
        if finish_s is None or (fastest_us := self.profile.fastest_us(rows)) is None:
            return begin_s
        latest_s = finish_s - fastest_us * 1e-6
        return latest_s if begin_s is None else min(begin_s, latest_s)

    def parts(self, rows: int) -> list[int]:
        """The rows of each run that a request of so many is split into."""
        return batching.parts(rows, self.cap, self.predict_us) if self.joins else [rows]

    def longest_us(self, rows: int) -> float:
        """What the longest of those runs takes; 0 where nothing was measured."""
        return self.predict_us(max(self.parts(rows))) or 0.0
