"""A model version on one device: its session, its profile, and how its requests are queued."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.metrics import Key
from turnout_server.core.model_config import Queue
from turnout_server.devices.buckets import bucket_for, doubling
from turnout_server.devices.openvino import beyond_32_bits
from turnout_server.devices.sessions import Session
from turnout_server.models import warmup
from turnout_server.models.per_core import PerCore, Rates
from turnout_server.models.profile_store import ProfileKey
from turnout_server.models.tuning import ModelFile
from turnout_server.models.verification import Parity
from turnout_server.scheduling import batching
from turnout_server.scheduling.confidence import Confidence
from turnout_server.scheduling.entries import Account
from turnout_server.scheduling.exploration import Exploration
from turnout_server.scheduling.profiles import Profile
from turnout_server.scheduling.standing import StandingQueue


@dataclass(frozen=True)
class DeviceReport:
    """What loading a version on a device showed.

    Attributes:
        load_s: how long opening it took, in seconds.
        placement: how many nodes of its graph each execution provider runs.
        parity: how far its outputs are from the reference.
        notes: what was found out about how it runs best.
    """

    load_s: float
    placement: Mapping[str, int]
    parity: Parity
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Deployment:
    """A model version on one device; a tenant of that device's queue.

    Attributes:
        key: model, version, device.
        max_rows: the most rows that a batch may have; 1 if requests can't be batched.
        batchable: whether requests may be batched, and split into chunks.
        instances: how many of its runs may be in progress at once; 0 for any number.
        target_us: how soon its requests should be answered; None if not set.
        profile_key: identifies its profile on disk; None if profiles aren't kept.
        report: what loading it showed.
        hazards: what a value of a request could do to the process that runs it.
        looks_at_values: whether `refusal` may refuse anything.
        narrowed: inputs of 64-bit integers that the device computes in 32 bits.
        reduces: whether the device reduces empty tensors otherwise than the CPU, and the model may reduce some.
        file: the model's file for the device, which opens it in other ways, too; None if it has none.
        cores: how many cores may have a run each; 0 where the device, or the model's configuration, leaves no choice.
        per_core: the way to have them; None if it gets no more done, or wasn't tried.
        rates: what both ways carried when they were tried; None if they weren't.
        effective_max_batch: the most rows worth batching, by what runs have taken so far. Now and then it is another size
            for a few runs, to find out.
        confidence: how far its predicted finish times can be relied on.
        standing: whether requests with a deadline find a queue that stands.
        debt_free_s: when it will have paid for slow runs that kept the transport's thread, on the monotonic clock.
    """

    key: Key
    session: Session
    profile: Profile = field(default_factory=Profile)
    max_rows: int = 1
    batchable: bool = True
    queue: Queue = field(default_factory=Queue)
    instances: int = 0
    weight: float = 1.0
    target_us: float | None = None
    precision: str = "fp32"
    profile_key: ProfileKey | None = None
    report: DeviceReport = field(default_factory=lambda: DeviceReport(0.0, {}, Parity(None, "")))
    hazards: tuple[str, ...] = ()
    narrowed: tuple[str, ...] = ()
    reduces: bool = False
    file: ModelFile | None = None
    cores: int = 0
    per_core: PerCore | None = None
    rates: Rates | None = None
    account: Account = field(default_factory=Account)
    effective_max_batch: int = field(default=1, init=False)
    confidence: Confidence = field(default_factory=Confidence)
    standing: StandingQueue = field(default_factory=StandingQueue)
    debt_free_s: float = 0.0
    _next_review: int = 0
    _exploration: Exploration = field(default_factory=Exploration)

    def __post_init__(self) -> None:
        self.device = self.key[2]
        self.looks_at_values = bool(self.narrowed) or self.reduces
        self.preferred_rows = self.queue.preferred_rows
        self.max_delay_s = self.queue.max_delay_us * 1e-6
        self.target_s = None if self.target_us is None else self.target_us * 1e-6
        self.buckets = tuple(self.session.buckets)
        self.review_batch_size()

    @property
    def total_runs(self) -> int:
        """The number of runs recorded, whichever way they were made."""
        return self.profile.total_runs + (self.per_core.profile.total_runs if self.per_core else 0)

    def way(self, *, per_core: bool) -> "Deployment | PerCore":
        """What runs a batch and learns from it: this, or the model on one core."""
        return self.per_core if per_core and self.per_core is not None else self

    def refusal(self, inputs: Mapping[str, np.ndarray]) -> FailedPrecondition | None:
        """Why the device would compute something else from these values; None if it wouldn't."""
        if self.reduces and (empty := next((name for name, array in inputs.items() if not array.size), None)) is not None:
            return FailedPrecondition(
                f"device '{self.device}' may reduce an empty tensor to another value, and input '{empty}' is empty; "
                "another device takes it"
            )
        for name in self.narrowed:
            if (value := beyond_32_bits(inputs[name])) is not None:
                return FailedPrecondition(
                    f"device '{self.device}' computes integers in 32 bits, and input '{name}' has the value {value}; "
                    "another device takes it"
                )
        return None

    def predict_us(self, rows: int) -> float | None:
        """The expected service time in microseconds of a run of so many rows; None before the first run."""
        return self.profile.predict_us(self.executed_rows(rows))

    def likely_us(self, rows: int) -> float | None:
        """The service time that about 90 % of such runs stay below."""
        return self.profile.likely_us(self.executed_rows(rows))

    def fastest_us(self, rows: int) -> float | None:
        """The service time of the fastest such run."""
        return self.profile.fastest_us(self.executed_rows(rows))

    def executed_rows(self, rows: int) -> int:
        """The rows of a run of so many, padding included."""
        return (bucket_for(rows, self.buckets) or rows) if self.buckets else rows

    def timed_us(self, rows: int, session: Session | None = None) -> float:
        """How long a run of trial inputs takes, as requests would make it; see warmup.timed_us.

        Args:
            session: the model opened in another way.
        """
        example = self.file.example if self.file else None
        return warmup.timed_us(session or self.session, rows, batched=self.batchable, example=example)

    def trim(self, session: Session | None = None) -> None:
        """Gives back the memory that the largest runs took, because requests may never make one.

        Args:
            session: the model opened in another way.

        Raises:
            ServingError: trial inputs don't run, or the device is gone.
        """
        (session or self.session).trim()
        self.timed_us(1, session)

    def sizes(self, max_rows: int) -> tuple[int, ...]:
        """The batch sizes that are worth measuring."""
        larger = (size for size in doubling(max(1, max_rows)) if not self.buckets or size > self.buckets[-1])
        return (*self.buckets, *larger)

    def observe(self, rows: int, service_us: float) -> None:
        """Takes in a run that served requests."""
        self.profile.observe(self.executed_rows(rows), service_us)
        if self.profile.total_runs >= self._next_review:
            self.review_batch_size()

    def review_batch_size(self) -> None:
        """Sets `effective_max_batch` for the next runs. Call it when the profile has changed."""
        self._next_review = self.profile.total_runs + batching.REVIEW_RUNS
        if not self.batchable:
            return
        best = batching.best_rows(self.profile.settled_us, self.max_rows, self.target_us)
        others = [rows for rows in batching.neighbours(best, self.max_rows) if self._may_try(rows)]
        rows = self._exploration.rows(best, others, self.profile.settled_us)
        self.effective_max_batch = max(rows, *self.preferred_rows) if self.preferred_rows else rows

    def start_by_s(self, rows: int, deadline_s: float | None, start_by_s: float | None) -> float | None:
        """The latest time at which starting a run of so many rows makes sense; None for any time.

        Args:
            deadline_s: when its answer must be there; even the fastest run ever seen would miss it if it started later.
            start_by_s: when it has waited long enough.
        """
        if deadline_s is None or (fastest_us := self.fastest_us(rows)) is None:
            return start_by_s
        latest_s = deadline_s - fastest_us * 1e-6
        return latest_s if start_by_s is None else min(start_by_s, latest_s)

    def chunks(self, rows: int) -> list[int]:
        """The rows of each run that a request is split into."""
        return batching.chunks(rows, self.effective_max_batch, self.predict_us) if self.batchable else [rows]

    def longest_chunk_us(self, rows: int) -> float:
        """The service time of the longest of those runs; 0 if nothing was measured."""
        return self.predict_us(max(self.chunks(rows))) or 0.0

    def _may_try(self, rows: int) -> bool:
        """Whether a run of so many rows was in time before."""
        fastest_us = self.profile.fastest_us(rows) if self.profile.settled_us(rows) else None
        return fastest_us is not None and (self.target_us is None or fastest_us <= self.target_us)
