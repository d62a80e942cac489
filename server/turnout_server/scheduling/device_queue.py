"""What waits for one device, and what of it runs next. No clock, no thread, no lock: `now` comes in, a decision goes out.

Requests wait in groups of those that can share a run. Whose turn it is, in this order:

1. A model that waits at a lower priority than others, and hasn't had a run for `STARVED_S`, gets one: every other run at most,
   or else a few models whose runs are long would leave nothing to the more urgent.
2. A higher priority goes before a lower one.
3. Among equals, a model that has had less than its share of the device, by more than `LAG_S`, goes before the others.
4. Else the request that is due first: at its deadline, or `PATIENCE_S` after it came, or when its model's target wants it.

Shares are virtual time, as in start-time fair queuing (Goyal, Vin, Cheng 1996): each run is charged to its model, divided by
the model's weight, and a model that comes back after a pause starts level with those that are there.
"""

import math
from bisect import bisect, insort
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Generic, NamedTuple

from turnout_server.scheduling import batching
from turnout_server.scheduling.arrivals import Arrivals, Comers, rank
from turnout_server.scheduling.entries import Selection, Tenant, W, unwanted

#: Requests with the same tenant and kind can share a run.
Key = tuple[Tenant, Hashable]

#: Seconds of device time by which a model may fall behind its share before it goes first.
LAG_S = 0.1
#: Seconds without a run after which even a lower priority gets one.
STARVED_S = 1.0
#: Seconds after which a request without deadline counts as due.
PATIENCE_S = 1.0
#: Seconds between two looks at every waiting request for those that nobody wants any more.
SWEEP_S = 0.05


class Prospect(NamedTuple):
    """What a request would find in a backlog, in microseconds of runs.

    Attributes:
        ahead_us: of others that go before it.
        joined_us: of its own kind up to and with it: what it would share runs with.
        added_us: how much more there would be to do.
    """

    ahead_us: float
    joined_us: float
    added_us: float


def due(tenant: Tenant, enqueued_s: float, deadline_s: float | None) -> float:
    """When a request is due: by its model's target, or `PATIENCE_S` after it came, or at its deadline if that is sooner."""
    due_s = enqueued_s + (PATIENCE_S if tenant.target_s is None else tenant.target_s)
    return due_s if deadline_s is None else min(due_s, deadline_s)


class _Group(Generic[W]):
    """Requests that can share a run, those that are due first in front."""

    __slots__ = ("queue", "rows", "tenant")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.queue: list[tuple[int, float, int, W]] = []
        self.rows = 0

    def rows_before(self, place: tuple[int, float, float]) -> int:
        """How many of its rows go before a place in the queue; as if they were spread evenly over its requests."""
        return -(-self.rows * bisect(self.queue, place) // max(1, len(self.queue)))

    def rows_to_take(self, idle: int) -> int:
        """The most rows that its next run should have, with so many workers that could begin one now."""
        tenant = self.tenant
        most = batching.rows_to_take(self.rows, tenant.cap, tenant.preferred_rows)
        if tenant.instances:
            idle = min(idle, tenant.instances - tenant.account.running)
        if idle == 1 or tenant.preferred_rows or tenant.max_delay_s:  # whoever asks for full batches gets them
            return most
        return batching.rows_for_one(self.rows, most, idle, tenant.predict_us)

    def likely_s(self, rows: int) -> float:
        """What a run of so many rows hardly ever takes longer than."""
        return (self.tenant.likely_us(rows) or 0.0) * 1e-6

    def ripe_s(self) -> float:
        """From when on it may run: at once, unless its tenant would rather wait for a fuller batch, and nobody gets late."""
        tenant = self.tenant
        if not tenant.max_delay_s or self.rows >= min(tenant.preferred_rows, default=tenant.cap):
            return -math.inf
        waiting = [entry[3] for entry in self.queue]
        wanted_s = min((item.finish_s for item in waiting if item.finish_s is not None), default=math.inf)
        return min(min(item.enqueued_s for item in waiting) + tenant.max_delay_s, wanted_s - self.likely_s(self.rows))


class Backlog(Generic[W]):
    """The requests that wait for one device."""

    def __init__(self) -> None:
        self._groups: dict[Key, _Group[W]] = {}
        self._levels_s: dict[int, float] = {}  # by priority, the share of who ran last: where a newcomer starts
        self._numbers = count()
        self._length = 0
        self._swept_s = -math.inf
        self._lent = False  # whether the last turn was that of a lower priority
        self._arrivals = Arrivals()

    def __len__(self) -> int:
        return self._length

    def waiting(self, tenant: Tenant, priority: int) -> int:
        """How many requests of a tenant wait at a priority."""
        return tenant.account.by_priority.get(priority, 0)

    def add(self, item: W) -> None:
        """One more request."""
        tenant = item.tenant
        group = self._groups.get((tenant, item.kind))
        if group is None:
            group = self._groups[tenant, item.kind] = _Group(tenant)
        account = tenant.account
        if not account.waiting and not account.running:
            account.used_s = max(account.used_s, self._levels_s.get(rank(item.priority), 0.0))
            account.served_s = item.enqueued_s
        account.waiting += 1
        account.by_priority[item.priority] += 1
        self._length += 1
        group.rows += item.rows
        can_wait_s = None if item.deadline_s is None else item.deadline_s - item.enqueued_s
        self._arrivals.add(item.enqueued_s, item.priority, can_wait_s)
        due_s = due(tenant, item.enqueued_s, item.deadline_s)
        insort(group.queue, (item.priority, due_s, next(self._numbers), item))

    def take(self, now_s: float, *, hurry: bool = False, idle: int = 1) -> Selection[W]:
        """The next run, if there is one, and what has left without one.

        A run begins with this: `ended` says when it is over.

        Args:
            hurry: no batch waits for more.
            idle: the workers that could begin a run now, the one that asks included.
        """
        selection: Selection[W] = Selection()
        if now_s - self._swept_s > SWEEP_S:
            self.sweep(now_s, selection)
        ripe, wake_s = [], math.inf
        for group in self._groups.values():
            if group.tenant.instances and group.tenant.account.running >= group.tenant.instances:
                continue
            at_s = group.ripe_s()
            if hurry or at_s <= now_s:
                ripe.append(group)
            else:
                wake_s = min(wake_s, at_s)
        if ripe:
            group = ripe[0] if len(ripe) == 1 else self._next(ripe, now_s)
            self._form(group, now_s, idle, selection)
        elif wake_s < math.inf:
            selection.wake_s = wake_s
        return selection

    def ended(self, tenant: Tenant, service_s: float) -> None:
        """A run that `take` gave out is over, after so many seconds."""
        account = tenant.account
        account.running -= 1
        account.used_s += service_s / tenant.weight

    def sweep(self, now_s: float, selection: Selection[W]) -> None:
        """Moves every request that nobody wants any more to `selection`."""
        self._swept_s = now_s
        for key, group in list(self._groups.items()):
            dead = [entry for entry in group.queue if unwanted(entry[3], now_s)]
            if dead:
                group.queue = [entry for entry in group.queue if not unwanted(entry[3], now_s)]
                for entry in dead:
                    self._left(group, entry[3])
                    selection.drop(entry[3])
                self._tidy(key, group)

    def clear(self) -> list[W]:
        """Everything that waits; nothing does any more."""
        items = [(group, entry[3]) for group in self._groups.values() for entry in group.queue]
        for group, item in items:
            self._left(group, item)
        self._groups.clear()
        return [item for _, item in items]

    def rows_of(self, tenant: Tenant, kind: Hashable) -> int:
        """Waiting rows that a request of this kind could share a run with."""
        group = self._groups.get((tenant, kind))
        return group.rows if group else 0

    def comers(self, now_s: float, priority: int) -> Sequence[Comers]:
        """Who came of late and was at least so urgent. For any thread."""
        return self._arrivals.of_late(now_s, priority)

    def prospect(self, tenant: Tenant, kind: Hashable, rows: int, priority: int, due_s: float) -> Prospect:
        """What a request would find here. For any thread: it may be a moment out of date."""
        place = (priority, due_s, math.inf)
        ahead_us = 0.0
        for key, group in tuple(self._groups.items()):
            if key != (tenant, kind):
                ahead_us += _runs_us(group.tenant, group.rows_before(place))
        own = self._groups.get((tenant, kind))
        if own is None:
            alone_us = tenant.predict_us(rows) or 0.0
            return Prospect(ahead_us, alone_us, alone_us)
        added_us = _runs_us(tenant, own.rows + rows) - _runs_us(tenant, own.rows)
        return Prospect(ahead_us, _runs_us(tenant, own.rows_before(place) + rows), max(0.0, added_us))

    def _next(self, ripe: list[_Group[W]], now_s: float) -> _Group[W]:
        """Whose turn it is; see above."""
        urgent = min(group.queue[0][0] for group in ripe)
        equals = [group for group in ripe if group.queue[0][0] == urgent]
        ahead = {group.tenant for group in equals}
        starved = [group for group in ripe if group.tenant not in ahead and now_s - _served_s(group) > STARVED_S]
        self._lent = bool(starved) and not self._lent
        if self._lent:
            return min(starved, key=_served_s)
        poorest = min(equals, key=_used_s)
        if max(map(_used_s, equals)) - _used_s(poorest) > LAG_S:
            equals = [group for group in equals if group.tenant is poorest.tenant]
        return min(equals, key=_first)

    def _form(self, group: _Group[W], now_s: float, idle: int, selection: Selection[W]) -> None:
        """Takes a batch off the front of a group."""
        tenant, queue, batch, rows = group.tenant, group.queue, selection.batch, 0
        kind, most, finish_s = queue[0][3].kind, group.rows_to_take(idle), math.inf
        crowded = group.rows > most
        while queue and (not batch or rows + queue[0][3].rows <= most):
            item = queue[0][3]
            wanted_s = math.inf if item.finish_s is None else item.finish_s
            if batch and min(finish_s, wanted_s) < now_s + group.likely_s(rows + item.rows):
                break  # together somebody would be late who isn't otherwise
            queue.pop(0)
            self._left(group, item)
            late = wanted_s < now_s + group.likely_s(max(item.rows, most if crowded else 0))
            if unwanted(item, now_s) or (late and self._length):  # with nobody waiting it may still try its luck
                selection.drop(item)
            else:
                batch.append(item)
                rows += item.rows
                finish_s = min(finish_s, wanted_s)
        if batch:
            account = tenant.account
            account.running += 1
            account.served_s = now_s
            self._levels_s[rank(batch[0].priority)] = account.used_s
        self._tidy((tenant, kind), group)

    def _left(self, group: _Group[W], item: W) -> None:
        group.rows -= item.rows
        self._length -= 1
        account = group.tenant.account
        account.waiting -= 1
        account.by_priority[item.priority] -= 1
        if not account.by_priority[item.priority]:
            del account.by_priority[item.priority]  # any number may come as a priority

    def _tidy(self, key: Key, group: _Group[W]) -> None:
        if not group.queue:
            del self._groups[key]


def _runs_us(tenant: Tenant, rows: int) -> float:
    return batching.runs_us(rows, tenant.cap, tenant.predict_us) if rows else 0.0


def _first(group: _Group[W]) -> tuple[float, int]:
    return group.queue[0][1:3]


def _served_s(group: _Group[W]) -> float:
    return group.tenant.account.served_s


def _used_s(group: _Group[W]) -> float:
    return group.tenant.account.used_s
