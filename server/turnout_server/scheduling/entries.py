"""What a device queue holds: requests, and the models they are for, reduced to what scheduling decisions need."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


@dataclass(slots=True)
class Account:
    """A tenant's use of the device. Written by that device's queue only.

    Attributes:
        used_s: seconds of runs so far, divided by the tenant's weight.
        served_s: when its last run began; if it had none yet, when it began to wait.
        waiting: requests in the queue.
        running: runs in progress.
        by_priority: waiting requests by priority.
    """

    used_s: float = 0.0
    served_s: float = 0.0
    waiting: int = 0
    running: int = 0
    by_priority: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


class Way(Protocol):
    """A way to run a model's batches.

    Attributes:
        effective_max_batch: the most rows worth batching in one run.
    """

    @property
    def effective_max_batch(self) -> int: ...
    def predict_us(self, rows: int) -> float | None:
        """The expected service time of a run; None if nothing was measured."""
        ...

    def likely_us(self, rows: int) -> float | None:
        """The service time that about 90 % of runs stay below; None if nothing was measured."""
        ...


class WayPerCore(Way, Protocol):
    """A way to run batches on one core each.

    Attributes:
        max_rows: the most rows that a run may have.
        least_requests: from how many requests on that has them done sooner than runs on the whole device.
    """

    @property
    def max_rows(self) -> int: ...
    @property
    def least_requests(self) -> int: ...


class Tenant(Way, Protocol):
    """One model version on a device: the owner of queued requests. Itself, it is the way to run them on the whole device.

    Attributes:
        device: the device's name.
        account: its use of the device.
        weight: its share of the device, relative to other tenants'.
        instances: how many of its runs may be in progress at once; 0 for any number.
        preferred_rows: preferred batch sizes.
        max_delay_s: how long an incomplete batch may wait for more requests.
        target_s: how soon its requests should be answered; None if not set.
        per_core: the way to run them on one core, several at a time; None if there is none.
    """

    @property
    def device(self) -> str: ...
    @property
    def account(self) -> Account: ...
    @property
    def weight(self) -> float: ...
    @property
    def instances(self) -> int: ...
    @property
    def preferred_rows(self) -> tuple[int, ...]: ...
    @property
    def max_delay_s(self) -> float: ...
    @property
    def target_s(self) -> float | None: ...
    @property
    def per_core(self) -> WayPerCore | None: ...


class Entry(Protocol):
    """A queued request.

    Attributes:
        batch_key: equal for requests of one tenant that may be batched.
        rows: how many rows it adds to a batch.
        priority: 1 is the highest.
        start_by_s: the latest time at which starting it makes sense, on the monotonic clock; None for any time.
        deadline_s: when its answer must be there to be of use, on the monotonic clock; None for any time.
        enqueued_s: when it was queued.
        cancelled: whether its client is gone.
    """

    @property
    def tenant(self) -> Tenant: ...
    @property
    def batch_key(self) -> Hashable: ...
    @property
    def rows(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def start_by_s(self) -> float | None: ...
    @property
    def deadline_s(self) -> float | None: ...
    @property
    def enqueued_s(self) -> float: ...
    @property
    def cancelled(self) -> bool: ...


E = TypeVar("E", bound=Entry)


@dataclass(slots=True)
class Selection(Generic[E]):
    """A scheduling decision: run `batch` together, answer the others with an error.

    Attributes:
        per_core: whether to run it on one core.
        wake_s: if there is nothing to run, when a batch becomes due without further arrivals; None if never.
    """

    batch: list[E] = field(default_factory=list)
    expired: list[E] = field(default_factory=list)
    cancelled: list[E] = field(default_factory=list)
    per_core: bool = False
    wake_s: float | None = None

    def drop(self, entry: E) -> None:
        """Adds a request that leaves the queue without a run."""
        (self.cancelled if entry.cancelled else self.expired).append(entry)


def is_stale(entry: Entry, now_s: float) -> bool:
    """Whether running a request has become pointless: its client is gone, or it is too late to start."""
    return entry.cancelled or (entry.start_by_s is not None and entry.start_by_s <= now_s)
