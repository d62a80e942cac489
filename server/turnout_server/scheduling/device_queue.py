"""The queue of one place, usually of one device, and which of it runs next.

No clock, thread or lock: `now` comes in, a decision goes out.

Requests wait in groups that can be batched. The next group is chosen in this order:

1. A tenant that waits at a lower priority than others and has had no run for `STARVED_S` gets one, but at most every other
   run. Otherwise a few models with long runs would leave nothing to the more urgent ones.
2. Higher priority first.
3. Among equals, a tenant that is behind its share of the device by more than `MAX_LAG_S` goes first.
4. Otherwise the request that is due first: at its model's latency target, `DEFAULT_DUE_S` after it arrived, or at its deadline.

Shares are virtual time, as in start-time fair queuing (Goyal, Vin, Cheng 1996): each run is charged to its tenant, divided by
the tenant's weight, and a tenant that returns after a pause starts level with those that are there.
"""

import math
from bisect import bisect, insort
from collections.abc import Hashable, Mapping, Sequence
from itertools import count
from types import MappingProxyType
from typing import Generic

from turnout_server.scheduling import batching
from turnout_server.scheduling.arrivals import ArrivalRate, Arrivals, rank
from turnout_server.scheduling.entries import E, Selection, Tenant, Way, is_stale
from turnout_server.scheduling.per_core import NO_CORES, Cores

#: Requests with the same tenant and batch key can share a run.
Key = tuple[Tenant, Hashable]

#: Seconds of device time by which a tenant may fall behind its share before it goes first.
MAX_LAG_S = 0.1
#: Seconds without a run after which even a lower priority gets one.
STARVED_S = 1.0
#: Seconds after its arrival at which a request is due if nothing else says when.
DEFAULT_DUE_S = 1.0
#: Seconds between two scans of the whole queue for stale requests.
SWEEP_S = 0.05


def due(tenant: Tenant, enqueued_s: float, start_by_s: float | None) -> float:
    """When a request is due: at its model's latency target or `DEFAULT_DUE_S`, but no later than `start_by_s`."""
    due_s = enqueued_s + (DEFAULT_DUE_S if tenant.target_s is None else tenant.target_s)
    return due_s if start_by_s is None else min(due_s, start_by_s)


class _Group(Generic[E]):
    """Requests that can be batched, in the order in which they are due."""

    __slots__ = ("queue", "rows", "tenant")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.queue: list[tuple[int, float, int, E]] = []  # priority, due_s, sequence number, request
        self.rows = 0

    def rows_before(self, place: tuple[int, float, float]) -> int:
        """How many rows go before a place in the queue, assuming that all requests have equally many."""
        return -(-self.rows * bisect(self.queue, place) // max(1, len(self.queue)))

    def rows_to_take(self, way: Way, idle: int) -> int:
        """The most rows of the next run, given the number of workers that could begin one now."""
        tenant = self.tenant
        most = batching.rows_to_take(self.rows, way.effective_max_batch, tenant.preferred_rows)
        if tenant.instances:
            idle = min(idle, tenant.instances - tenant.account.running)
        if idle == 1 or tenant.preferred_rows or tenant.max_delay_s:  # explicitly configured batches are kept full
            return most
        return batching.rows_for_one(self.rows, most, idle, way.predict_us)

    def way(self, now_s: float, cores: Cores) -> Way:
        """How to run the next batch: on one core if enough requests are there, and the first of them will be in time."""
        tenant, (_, _, _, first) = self.tenant, self.queue[0]
        per_core = tenant.per_core
        if not cores.number or per_core is None or cores.requests < per_core.least_requests or first.rows > per_core.max_rows:
            return tenant
        deadline_s = math.inf if first.deadline_s is None else first.deadline_s - now_s
        slack_s = deadline_s if tenant.target_s is None else min(deadline_s, tenant.target_s)
        taken = max(first.rows, self.rows_to_take(per_core, max(1, cores.free)))
        return per_core if _likely_s(per_core, taken) < slack_s else tenant

    def dispatch_s(self) -> float:
        """Earliest dispatch time: now, unless the queue delay holds it and no deadline would be missed."""
        tenant = self.tenant
        if not tenant.max_delay_s or self.rows >= min(tenant.preferred_rows, default=tenant.effective_max_batch):
            return -math.inf
        waiting = [item[3] for item in self.queue]
        deadline_s = min((entry.deadline_s for entry in waiting if entry.deadline_s is not None), default=math.inf)
        return min(min(entry.enqueued_s for entry in waiting) + tenant.max_delay_s, deadline_s - _likely_s(tenant, self.rows))


class DeviceQueue(Generic[E]):
    """The requests that wait for one place: a device, or several that share hardware."""

    def __init__(self) -> None:
        self._groups: dict[Key, _Group[E]] = {}
        self._virtual_s: dict[int, float] = {}  # by priority, the virtual time of the tenant that ran last
        self._numbers = count()
        self._length = 0
        self._swept_s = -math.inf
        self._lent = False  # whether the last run went to a starved lower priority
        self._arrivals = Arrivals()

    def __len__(self) -> int:
        return self._length

    def waiting(self, tenant: Tenant, priority: int) -> int:
        """How many requests of a tenant wait at a priority."""
        return tenant.account.by_priority.get(priority, 0)

    def waiting_for(self, device: str) -> int:
        """How many requests wait for a device. May be called from any thread."""
        return sum(tenant.account.waiting for tenant in {key[0] for key in tuple(self._groups)} if tenant.device == device)

    def add(self, entry: E) -> None:
        """Queues a request."""
        tenant = entry.tenant
        group = self._groups.get((tenant, entry.batch_key))
        if group is None:
            group = self._groups[tenant, entry.batch_key] = _Group(tenant)
        account = tenant.account
        if not account.waiting and not account.running:
            account.used_s = max(account.used_s, self._virtual_s.get(rank(entry.priority), 0.0))
            account.served_s = entry.enqueued_s
        account.waiting += 1
        account.by_priority[entry.priority] += 1
        self._length += 1
        group.rows += entry.rows
        slack_s = None if entry.start_by_s is None else entry.start_by_s - entry.enqueued_s
        self._arrivals.add(entry.enqueued_s, entry.priority, slack_s)
        due_s = due(tenant, entry.enqueued_s, entry.start_by_s)
        insort(group.queue, (entry.priority, due_s, next(self._numbers), entry))

    def take(
        self,
        now_s: float,
        *,
        hurry: bool = False,
        idle: int = 1,
        room: Mapping[str, int] = MappingProxyType({}),
        cores: Cores = NO_CORES,
    ) -> Selection[E]:
        """The next batch, if one is due, and the requests that were dropped.

        The batch counts as running until `ended` is called.

        Args:
            hurry: ignore queue delays.
            idle: the number of runs on whole devices that could begin now.
            room: how many of those each device may begin now, where that isn't as many as there are workers.
            cores: for runs on a core each.
        """
        selection: Selection[E] = Selection()
        if now_s - self._swept_s > SWEEP_S:
            self.sweep(now_s, selection)
        dispatchable: dict[_Group[E], tuple[Way, int]] = {}
        wake_s = math.inf
        for key, group in self._groups.copy().items():
            self._drop_stale_head(key, group, now_s, selection)
            if not group.queue:
                continue
            if group.tenant.instances and group.tenant.account.running >= group.tenant.instances:
                continue
            way = group.way(now_s, cores)
            workers = min(idle, room.get(group.tenant.device, idle)) if way is group.tenant else cores.free
            if workers <= 0:
                continue
            at_s = group.dispatch_s()
            if hurry or at_s <= now_s:
                dispatchable[group] = way, workers
            else:
                wake_s = min(wake_s, at_s)
        if dispatchable:
            group = next(iter(dispatchable)) if len(dispatchable) == 1 else self._next(list(dispatchable), now_s)
            way, workers = dispatchable[group]
            selection.per_core = way is not group.tenant
            self._form(group, way, now_s, workers, selection)
        elif wake_s < math.inf:
            selection.wake_s = wake_s
        return selection

    def ended(self, tenant: Tenant, service_s: float) -> None:
        """Charges a finished run to its tenant."""
        account = tenant.account
        account.running -= 1
        account.used_s += service_s / tenant.weight

    def sweep(self, now_s: float, selection: Selection[E]) -> None:
        """Moves every stale request to `selection`."""
        self._swept_s = now_s
        for key, group in self._groups.copy().items():
            stale = [item for item in group.queue if is_stale(item[3], now_s)]
            if stale:
                group.queue = [item for item in group.queue if not is_stale(item[3], now_s)]
                for item in stale:
                    self._removed(group, item[3])
                    selection.drop(item[3])
                self._tidy(key, group)

    def clear(self) -> list[E]:
        """Removes and returns everything."""
        items = [(group, item[3]) for group in self._groups.values() for item in group.queue]
        for group, entry in items:
            self._removed(group, entry)
        self._groups.clear()
        return [entry for _, entry in items]

    def arrivals(self, now_s: float, priority: int) -> Sequence[ArrivalRate]:
        """Recent arrivals that were at least as urgent. May be called from any thread."""
        return self._arrivals.recent(now_s, priority)

    def predicted_us(
        self, tenant: Tenant, batch_key: Hashable, rows: int, priority: int, due_s: float
    ) -> tuple[float, float, float, int]:
        """What a request would meet here. May be called from any thread; may be a moment out of date.

        Returns:
            Microseconds of runs: of other groups' requests that go before it; of its own group, up to and including it; and
            how much more work there would be with it. Last, how many of the requests that wait would go after it.
        """
        place = (priority, due_s, math.inf)
        ahead_us, overtaken = 0.0, 0
        for key, group in self._groups.copy().items():
            overtaken += len(group.queue) - bisect(group.queue, place)
            if key != (tenant, batch_key):
                ahead_us += _runs_us(group.tenant, group.rows_before(place))
        own = self._groups.get((tenant, batch_key))
        if own is None:
            alone_us = tenant.predict_us(rows) or 0.0
            return ahead_us, alone_us, alone_us, overtaken
        added_us = _runs_us(tenant, own.rows + rows) - _runs_us(tenant, own.rows)
        return ahead_us, _runs_us(tenant, own.rows_before(place) + rows), max(0.0, added_us), overtaken

    def _next(self, dispatchable: list[_Group[E]], now_s: float) -> _Group[E]:
        """The group whose turn it is, by the rules in the module's docstring."""
        urgent = min(group.queue[0][0] for group in dispatchable)
        equals = [group for group in dispatchable if group.queue[0][0] == urgent]
        ahead = {group.tenant for group in equals}
        starved = [group for group in dispatchable if group.tenant not in ahead and now_s - _served_s(group) > STARVED_S]
        self._lent = bool(starved) and not self._lent
        if self._lent:
            return min(starved, key=_served_s)
        poorest = min(equals, key=_used_s)
        if max(map(_used_s, equals)) - _used_s(poorest) > MAX_LAG_S:
            equals = [group for group in equals if group.tenant is poorest.tenant]
        return min(equals, key=_first)

    def _drop_stale_head(self, key: Key, group: _Group[E], now_s: float, selection: Selection[E]) -> None:
        """Drops stale requests from the front of a group, so that the way to run it suits the first one that will run."""
        while group.queue and is_stale(group.queue[0][3], now_s):
            entry = group.queue.pop(0)[3]
            self._removed(group, entry)
            selection.drop(entry)
        self._tidy(key, group)

    def _form(self, group: _Group[E], way: Way, now_s: float, workers: int, selection: Selection[E]) -> None:
        """Takes a batch off the front of a group."""
        tenant, queue, batch, rows = group.tenant, group.queue, selection.batch, 0
        batch_key, most, batch_deadline_s = queue[0][3].batch_key, group.rows_to_take(way, workers), math.inf
        crowded = group.rows > most
        while queue and (not batch or rows + queue[0][3].rows <= most):
            entry = queue[0][3]
            deadline_s = math.inf if entry.deadline_s is None else entry.deadline_s
            if batch and min(batch_deadline_s, deadline_s) < now_s + _likely_s(way, rows + entry.rows):
                break  # the larger batch would miss a deadline that the smaller one meets
            queue.pop(0)
            self._removed(group, entry)
            late = deadline_s < now_s + _likely_s(way, max(entry.rows, most if crowded else 0))
            if is_stale(entry, now_s) or (late and self._length):  # with an empty queue it may still try
                selection.drop(entry)
            else:
                batch.append(entry)
                rows += entry.rows
                batch_deadline_s = min(batch_deadline_s, deadline_s)
        if batch:
            account = tenant.account
            account.running += 1
            account.served_s = now_s
            self._virtual_s[rank(batch[0].priority)] = account.used_s
        self._tidy((tenant, batch_key), group)

    def _removed(self, group: _Group[E], entry: E) -> None:
        group.rows -= entry.rows
        self._length -= 1
        account = group.tenant.account
        account.waiting -= 1
        account.by_priority[entry.priority] -= 1
        if not account.by_priority[entry.priority]:
            del account.by_priority[entry.priority]  # clients may send any number as a priority

    def _tidy(self, key: Key, group: _Group[E]) -> None:
        if not group.queue:
            del self._groups[key]


def _likely_s(way: Way, rows: int) -> float:
    """The service time that about 90 % of runs of so many rows stay below."""
    return (way.likely_us(rows) or 0.0) * 1e-6


def _runs_us(tenant: Tenant, rows: int) -> float:
    return batching.runs_us(rows, tenant.effective_max_batch, tenant.predict_us) if rows else 0.0


def _first(group: _Group[E]) -> tuple[float, int]:
    return group.queue[0][1:3]


def _served_s(group: _Group[E]) -> float:
    return group.tenant.account.served_s


def _used_s(group: _Group[E]) -> float:
    return group.tenant.account.used_s
