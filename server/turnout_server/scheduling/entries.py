"""What a device's queue holds: requests, and the models that they are for, as decisions about them see them."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


@dataclass(slots=True)
class Account:
    """What a tenant has had of the device, and what it has there now. Belongs to the backlog of that device.

    Attributes:
        used_s: seconds of runs, divided by its weight.
        served_s: when its last run began, or else when it began to wait.
    """

    used_s: float = 0.0
    served_s: float = 0.0
    waiting: int = 0
    running: int = 0
    by_priority: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


class Tenant(Protocol):
    """One model version on the device: whose requests wait, and how.

    Attributes:
        account: what it has had.
        weight: its share relative to others'.
        instances: how many of its runs may go on at once; 0 for any number.
        preferred_rows: batch sizes to prefer.
        max_delay_s: how long an incomplete batch may wait for more.
        target_s: how soon its requests should be answered; None if nobody said.
        cap: the most rows worth joining.
    """

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
    def cap(self) -> int: ...
    def predict_us(self, rows: int) -> float | None: ...
    def likely_us(self, rows: int) -> float | None: ...


class Waiting(Protocol):
    """A waiting request.

    Attributes:
        kind: equal for requests of one tenant that may share a run.
        rows: how many rows it adds to one.
        priority: 1 is the highest.
        deadline_s: when it has waited long enough, on the monotonic clock; None if never.
        finish_s: by when its run must be over to be of use; None if it always is.
        enqueued_s: when it came.
        cancelled: its caller is gone.
    """

    @property
    def tenant(self) -> Tenant: ...
    @property
    def kind(self) -> Hashable: ...
    @property
    def rows(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def deadline_s(self) -> float | None: ...
    @property
    def finish_s(self) -> float | None: ...
    @property
    def enqueued_s(self) -> float: ...
    @property
    def cancelled(self) -> bool: ...


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class Selection(Generic[W]):
    """What to do now: run `batch` together, drop the others.

    Attributes:
        wake_s: with nothing to run, when that may change by itself; None if never.
    """

    batch: list[W] = field(default_factory=list)
    expired: list[W] = field(default_factory=list)
    cancelled: list[W] = field(default_factory=list)
    wake_s: float | None = None

    def drop(self, item: W) -> None:
        """A request that leaves without a run."""
        (self.cancelled if item.cancelled else self.expired).append(item)


def unwanted(item: Waiting, now_s: float) -> bool:
    """Whether nobody wants a request's run to begin any more."""
    return item.cancelled or (item.deadline_s is not None and item.deadline_s <= now_s)
