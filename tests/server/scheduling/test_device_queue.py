"""Which requests run next: none is lost, and no model is starved."""

import gc
import math
from collections import Counter
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnout_server.scheduling.device_queue import (
    DEFAULT_DUE_S,
    MAX_LAG_S,
    STARVED_S,
    SWEEP_S,
    DeviceQueue,
    due,
)
from turnout_server.scheduling.entries import Selection
from turnout_server.scheduling.per_core import NO_CORES, Cores

from tests.server.fakes import FakeRequest, FakeTenant

EPSILON_S = 1e-6  # sums of seconds aren't exact


class Device:
    """A device queue, the time, and what happened to every request."""

    def __init__(self, *tenants: FakeTenant) -> None:
        self.device_queue: DeviceQueue[FakeRequest] = DeviceQueue()
        self.tenants = tenants
        self.now_s = 1000.0
        self.waiting: list[FakeRequest] = []
        self.running: list[list[FakeRequest]] = []
        self.left: Counter[int] = Counter()
        self._numbers = count()

    def add(self, at: int = 0, *, start_by_s: float | None = None, deadline_s: float | None = None, **options: Any) -> int:
        """Queues a request of a tenant; times are seconds from now. Returns its number."""
        request = FakeRequest(self.tenants[at], next(self._numbers), enqueued_s=self.now_s, **options)
        request.start_by_s = None if start_by_s is None else self.now_s + start_by_s
        request.deadline_s = None if deadline_s is None else self.now_s + deadline_s
        self.waiting.append(request)
        self.device_queue.add(request)
        return request.number

    def take(self, *, hurry: bool = False, idle: int = 1, cores: Cores = NO_CORES) -> Selection[FakeRequest]:
        """Starts the next run, if there is one."""
        selection = self.device_queue.take(self.now_s, hurry=hurry, idle=idle, cores=cores)
        if selection.batch:
            self.running.append(selection.batch)
        self._leave([*selection.batch, *selection.expired, *selection.cancelled])
        return selection

    def run(self) -> list[int]:
        """Starts the next run and ends it at once; returns the numbers of its requests."""
        batch = numbers(self.take().batch)
        if batch:
            self.end()
        return batch

    def end(self, service_s: float = 0.0) -> None:
        """Ends the run that started first, after `service_s`."""
        self.now_s += service_s
        self.device_queue.ended(self.running.pop(0)[0].tenant, service_s)

    def sweep(self) -> Selection[FakeRequest]:
        selection: Selection[FakeRequest] = Selection()
        self.device_queue.sweep(self.now_s, selection)
        self._leave([*selection.expired, *selection.cancelled])
        return selection

    def clear(self) -> None:
        self._leave(self.device_queue.clear())

    def stale(self, request: FakeRequest) -> bool:
        return request.cancelled or (request.start_by_s is not None and request.start_by_s <= self.now_s)

    def late(self, request: FakeRequest) -> bool:
        """Whether its run would miss the deadline; on these devices runs of all sizes take equally long."""
        return request.deadline_s is not None and request.deadline_s < self.now_s + (request.tenant.run_us or 0) * 1e-6

    def _leave(self, requests: list[FakeRequest]) -> None:
        for request in requests:
            self.left[request.number] += 1
            self.waiting.remove(request)


def numbers(requests: list[FakeRequest]) -> list[int]:
    return [request.number for request in requests]


def order_of(request: FakeRequest) -> tuple[int, float, int]:
    """Requests of one batch key run in this order, ascending."""
    target_s = DEFAULT_DUE_S if request.tenant.target_s is None else request.tenant.target_s
    due_s = min(request.enqueued_s + target_s, float("inf") if request.start_by_s is None else request.start_by_s)
    return request.priority, due_s, request.number


TENANTS = st.builds(
    FakeTenant,
    weight=st.floats(0.1, 10),
    instances=st.integers(0, 2),
    preferred_rows=st.sampled_from([(), (2,), (3, 6)]),
    max_delay_s=st.sampled_from([0.0, 0.2]),
    target_s=st.sampled_from([None, 0.05]),
    effective_max_batch=st.integers(1, 8),
    run_us=st.sampled_from([None, 100_000]),
)
DEADLINES = st.one_of(st.none(), st.floats(0, 2))
#: What happens next, with its arguments.
STEPS = st.one_of(
    st.tuples(
        st.just("add"),
        st.fixed_dictionaries(
            {
                "at": st.integers(0, 2),
                "batch_key": st.sampled_from("kl"),
                "rows": st.integers(0, 10),
                "priority": st.integers(1, 3),
                "start_by_s": DEADLINES,
                "deadline_s": DEADLINES,
            }
        ),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.floats(0, 1)),
    st.tuples(st.just("take"), st.booleans()),
    st.tuples(st.just("end"), st.floats(0, 1)),
    st.tuples(st.just("sweep"), st.none()),
    st.tuples(st.just("clear"), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(st.tuples(TENANTS, TENANTS, TENANTS), st.lists(STEPS, max_size=40))
def test_every_request_leaves_exactly_once_and_every_count_is_right(
    tenants: tuple[FakeTenant, ...], steps: list[tuple[str, Any]]
) -> None:
    device, added = Device(*tenants), 0
    for what, detail in steps:
        if what == "add":
            device.add(**detail)
            added += 1
        elif what == "cancel" and device.waiting:
            device.waiting[detail % len(device.waiting)].cancelled = True
        elif what == "wait":
            device.now_s += detail
        elif what == "take":
            check_selection(device, device.take(hurry=detail))
        elif what == "end" and device.running:
            device.end(detail)
        elif what == "sweep":
            selection = device.sweep()
            assert all(map(device.stale, selection.expired))
            assert not any(map(device.stale, device.waiting))
        elif what == "clear":
            device.clear()
        check_counts(device)
    device.clear()
    while device.running:
        device.end()
    check_counts(device)
    assert device.left == Counter(range(added))
    assert all(not tenant.account.by_priority for tenant in tenants)


def check_counts(device: Device) -> None:
    waiting, device_queue = device.waiting, device.device_queue
    assert len(device_queue) == len(waiting)
    for tenant in device.tenants:
        own = [request for request in waiting if request.tenant is tenant]
        assert tenant.account.waiting == len(own)
        assert tenant.account.running == sum(batch[0].tenant is tenant for batch in device.running)
        assert not tenant.instances or tenant.account.running <= tenant.instances
        for priority in (1, 2, 3):
            assert device_queue.waiting(tenant, priority) == sum(request.priority == priority for request in own)
        for batch_key in "kl":
            group = device_queue._groups.get((tenant, batch_key))
            assert (group.rows if group else 0) == sum(request.rows for request in own if request.batch_key == batch_key)


def check_dropped(device: Device, selection: Selection[FakeRequest]) -> None:
    assert all(request.cancelled for request in selection.cancelled)
    for request in selection.expired:
        assert not request.cancelled
        assert device.stale(request) or device.late(request)


def check_selection(device: Device, selection: Selection[FakeRequest]) -> None:
    """A batch has one model and batch key, respects the limit, and takes the first requests in order."""
    check_dropped(device, selection)
    batch = selection.batch
    if not batch:
        return
    tenant, batch_key = batch[0].tenant, batch[0].batch_key
    assert not any(device.stale(request) for request in batch)
    assert len(batch) == 1 or not any(device.late(request) for request in batch)
    assert not device.late(batch[0]) or not device.waiting  # it may try only if no other request waits
    assert all((request.tenant, request.batch_key) == (tenant, batch_key) for request in batch)
    assert len(batch) == 1 or sum(request.rows for request in batch) <= tenant.effective_max_batch
    assert all(order_of(a) < order_of(b) for a, b in pairwise(batch))
    left_behind = [request for request in device.waiting if (request.tenant, request.batch_key) == (tenant, batch_key)]
    assert all(order_of(batch[-1]) < order_of(request) for request in left_behind)


@given(st.tuples(TENANTS, TENANTS, TENANTS), st.lists(STEPS, max_size=30))
def test_in_a_hurry_requests_wait_only_for_their_models_instances(
    tenants: tuple[FakeTenant, ...], steps: list[tuple[str, Any]]
) -> None:
    device = Device(*tenants)
    for what, detail in steps:
        if what == "add":
            device.add(**detail)
    while not_empty(device.take(hurry=True)):
        pass
    assert all(request.tenant.account.running == request.tenant.instances > 0 for request in device.waiting)


def not_empty(selection: Selection[FakeRequest]) -> bool:
    return bool(selection.batch or selection.expired or selection.cancelled)


def test_cancelled_and_expired_requests_leave_without_a_run_and_without_an_effect_on_others() -> None:
    device = Device(FakeTenant())
    cancelled, expired, alive = device.add(), device.add(start_by_s=1), device.add()
    device.waiting[0].cancelled = True
    device.now_s += 1
    selection = device.take()
    assert [numbers(requests) for requests in (selection.batch, selection.expired, selection.cancelled)] == [
        [alive],
        [expired],
        [cancelled],
    ]


def test_stale_requests_are_found_even_behind_more_urgent_ones() -> None:
    device = Device(FakeTenant(effective_max_batch=1), FakeTenant())
    device.add(0, priority=1)
    device.add(0, priority=1)
    expired = device.add(1, start_by_s=1)
    device.run()
    device.now_s += 1 + SWEEP_S
    assert numbers(device.take().expired) == [expired]


def test_a_request_that_would_be_late_runs_if_no_other_waits() -> None:
    device = Device(FakeTenant(run_us=500_000))
    late = device.add(deadline_s=0.25)
    assert device.run() == [late]


def test_requests_without_a_deadline_do_not_make_their_batch_too_long_for_one() -> None:
    device = Device(FakeTenant(row_us=1000, run_us=0, effective_max_batch=8))
    urgent = device.add(deadline_s=0.005, start_by_s=0.004)
    others = [device.add() for _ in range(7)]
    first = device.run()
    assert first[0] == urgent
    assert len(first) <= 5
    assert first + device.run() == [urgent, *others]


def test_with_more_waiting_than_fits_a_request_that_would_be_late_in_a_full_run_is_dropped() -> None:
    device = Device(FakeTenant(row_us=1000, run_us=0, effective_max_batch=4))
    late = device.add(deadline_s=0.003, start_by_s=0.002)
    others = [device.add() for _ in range(4)]
    selection = device.take()
    assert (numbers(selection.expired), numbers(selection.batch)) == ([late], others)


def test_the_queue_delay_ends_in_time_for_a_deadline() -> None:
    device = Device(FakeTenant(run_us=10_000, max_delay_s=0.1))
    device.add(deadline_s=0.05)
    selection = device.take()
    assert not selection.batch
    assert selection.wake_s == pytest.approx(device.now_s + 0.04)


def test_a_new_model_starts_level_with_others_of_its_priority() -> None:
    urgent, less_urgent, newcomer = FakeTenant(), FakeTenant(), FakeTenant()
    device = Device(urgent, less_urgent, newcomer)
    for _ in range(3):  # the urgent model uses 30 s, the other one next to nothing
        device.add(0, priority=1)
        device.take()
        device.end(10.0)
    device.add(1, priority=3)
    device.run()
    device.add(0, priority=1)
    device.add(2, priority=1)
    assert urgent.account.used_s == 30
    assert newcomer.account.used_s == 20  # what the urgent one had used when its last run began


def test_a_request_that_would_miss_its_deadline_does_not_run() -> None:
    device = Device(FakeTenant(run_us=500_000))
    late, in_time = device.add(deadline_s=0.25), device.add(deadline_s=0.75)
    selection = device.take()
    assert (numbers(selection.expired), numbers(selection.batch)) == ([late], [in_time])


def test_an_empty_queue_gives_an_empty_selection() -> None:
    assert Device().take() == Selection()


def test_a_request_larger_than_the_batch_limit_runs_alone() -> None:
    device = Device(FakeTenant(effective_max_batch=4))
    large, small = device.add(rows=9), device.add()
    assert (device.run(), device.run()) == ([large], [small])


def test_a_higher_priority_goes_first() -> None:
    device = Device(FakeTenant(), FakeTenant())
    late = device.add(0, priority=2, start_by_s=0.001)
    urgent = device.add(1, priority=1)
    assert (device.run(), device.run()) == ([urgent], [late])


def test_within_a_batch_a_higher_priority_goes_first_too() -> None:
    device = Device(FakeTenant(effective_max_batch=2))
    order = [device.add(priority=priority) for priority in (3, 1, 2)]
    assert (device.run(), device.run()) == ([order[1], order[2]], [order[0]])


@pytest.mark.parametrize(
    ("options", "sooner"),
    [
        ({"start_by_s": 0.9 * DEFAULT_DUE_S}, True),
        ({"start_by_s": 1.1 * DEFAULT_DUE_S}, False),  # every request is due after a while, so none waits forever
        ({}, False),
    ],
    ids=["due sooner", "due later", "arrived later"],
)
def test_among_equals_the_earliest_due_goes_first(options: dict[str, float], sooner: bool) -> None:
    device = Device(FakeTenant(), FakeTenant())
    first, second = device.add(0), device.add(1, **options)
    assert device.run() == [second if sooner else first]


def test_a_models_target_makes_its_requests_due_sooner() -> None:
    device = Device(FakeTenant(), FakeTenant(target_s=0.5 * DEFAULT_DUE_S))
    untargeted = device.add(0)
    device.now_s += 0.4 * DEFAULT_DUE_S
    targeted = device.add(1)
    assert (device.run(), device.run()) == ([targeted], [untargeted])


def test_a_model_behind_its_share_goes_before_one_that_is_due_sooner() -> None:
    device = Device(FakeTenant(), FakeTenant())
    device.add(0)
    device.add(1)
    device.take()
    device.end(MAX_LAG_S * 1.5)
    urgent = device.add(0, start_by_s=0.01)
    assert device.run() == [1]
    assert device.run() == [urgent]


def test_a_model_that_returns_after_a_pause_has_no_saved_up_share() -> None:
    device = Device(FakeTenant(effective_max_batch=1), FakeTenant(effective_max_batch=1))
    for _ in range(20):
        device.add(0)
    for _ in range(10):
        device.take()
        device.end(1.0)
    for _ in range(5):
        device.add(1)
    turns = []
    for _ in range(10):
        turns.append(device.take().batch[0].tenant is device.tenants[1])
        device.end(1.0)
    assert turns.count(True) == 5
    assert all(sum(turns[:n]) <= n // 2 + 1 for n in range(10))  # turn by turn


SERVICES = st.floats(0.001, 2)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.floats(0.1, 10), min_size=2, max_size=4), st.integers(1, 3))
def test_busy_models_shares_never_differ_by_more_than_the_lag_and_their_longest_runs(
    data: st.DataObject, weights: list[float], workers: int
) -> None:
    """Runs are charged when they end, so the bound includes one run for each worker."""
    device = Device(*(FakeTenant(weight=weight, effective_max_batch=data.draw(st.integers(1, 3))) for weight in weights))
    starts = [data.draw(st.integers(0, 10)) for _ in weights]
    longest = 0.0
    for step in range(25):
        present = [at for at, start in enumerate(starts) if start <= step]
        for at in present:
            batch_key = data.draw(st.sampled_from("kl"))
            for start_by_s in (None, data.draw(DEADLINES)):
                device.add(at, batch_key=batch_key, start_by_s=start_by_s)
        while len(device.running) < workers and device.take().batch:
            pass
        if device.running:
            tenant, service_s = device.running[0][0].tenant, data.draw(SERVICES)
            longest = max(longest, service_s / tenant.weight)
            device.end(service_s)
        used_s = [device.tenants[at].account.used_s for at in present]
        if used_s:
            assert max(used_s) - min(used_s) <= MAX_LAG_S + workers * longest + EPSILON_S


@settings(max_examples=100, deadline=None)
@given(st.lists(SERVICES, min_size=10, max_size=40), st.integers(1, 3))
def test_a_lower_priority_is_not_starved(services: list[float], urgent_models: int) -> None:
    device = Device(*(FakeTenant(effective_max_batch=1) for _ in range(urgent_models + 1)))
    low = device.tenants[-1]
    device.add(urgent_models, priority=3)
    waits_since_s = device.now_s
    for service_s in services:
        for at in range(urgent_models):
            device.add(at, priority=1)
        (request,) = device.take().batch
        if request.tenant is low:
            assert device.now_s - waits_since_s > STARVED_S  # no sooner than necessary
            waits_since_s = device.now_s
            device.add(urgent_models, priority=3)
        device.end(service_s)
        assert device.now_s - waits_since_s <= STARVED_S + 2 * max(services)  # its own run, or one in progress


def test_starved_models_take_turns_with_urgent_ones_longest_waiting_first() -> None:
    device = Device(FakeTenant(effective_max_batch=1), FakeTenant(), FakeTenant())
    for _ in range(5):
        device.add(0, priority=1)
    second = device.add(2, priority=3)
    device.now_s += 0.1
    third = device.add(1, priority=2)
    device.now_s += STARVED_S + 0.1
    assert [device.run() for _ in range(3)] == [[second], [0], [third]]


@settings(max_examples=100, deadline=None)
@given(st.lists(SERVICES, min_size=10, max_size=40), st.integers(1, 3))
def test_a_higher_priority_has_every_other_run_at_least(services: list[float], low_models: int) -> None:
    """However long runs are, and however many models are starved."""
    device = Device(*(FakeTenant(effective_max_batch=1) for _ in range(low_models + 1)))
    urgent = []
    for service_s in services:
        for at in range(low_models + 1):
            device.add(at, priority=3 if at else 1)
        urgent.append(device.take().batch[0].priority == 1)
        device.end(service_s)
    assert all(one or other for one, other in pairwise(urgent))


def test_less_urgent_requests_of_one_model_never_overtake_its_urgent_ones() -> None:
    device = Device(FakeTenant())
    low, urgent = device.add(batch_key="k", priority=3), device.add(batch_key="l", priority=1)
    device.now_s += 2 * STARVED_S  # another run took that long
    assert (device.run(), device.run()) == ([urgent], [low])


def test_requests_wait_for_a_fuller_batch_no_longer_than_the_queue_delay() -> None:
    device = Device(FakeTenant(max_delay_s=0.5, effective_max_batch=4), FakeTenant(max_delay_s=0.25))
    device.add(0, rows=2)
    device.now_s += 0.125
    device.add(0)
    assert device.take() == Selection(wake_s=1000.5)
    device.add(1)
    assert device.take() == Selection(wake_s=1000.375)
    device.now_s = 1000.375
    assert device.run() == [2]
    assert device.take() == Selection(wake_s=1000.5)
    device.now_s = 1000.5
    assert device.run() == [0, 1]


def test_a_full_batch_does_not_wait() -> None:
    device = Device(FakeTenant(max_delay_s=0.5, effective_max_batch=4))
    device.add(rows=3)
    assert device.run() == []
    device.add(rows=2)
    assert device.run() == [0]  # the other doesn't fit, and waits for a fuller batch


def test_in_a_hurry_no_batch_waits_to_be_fuller() -> None:
    device = Device(FakeTenant(max_delay_s=0.5, preferred_rows=(4,)))
    device.add(rows=3)
    assert numbers(device.take(hurry=True).batch) == [0]


def test_a_preferred_batch_size_runs_as_soon_as_enough_rows_wait() -> None:
    device = Device(FakeTenant(max_delay_s=0.5, preferred_rows=(4, 6), effective_max_batch=8))
    three = [device.add() for _ in range(3)]
    assert device.run() == []
    rest = [device.add() for _ in range(2)]
    assert device.run() == [*three, rest[0]]
    assert device.run() == []
    device.now_s += 0.5
    assert device.run() == [rest[1]]


def test_without_a_queue_delay_preferred_sizes_delay_no_request() -> None:
    device = Device(FakeTenant(preferred_rows=(4,), effective_max_batch=8))
    device.add()
    assert device.run() == [0]
    for _ in range(7):
        device.add()
    assert [len(device.run()) for _ in range(2)] == [4, 3]


@pytest.mark.parametrize(
    ("tenant", "taken"),
    [
        (FakeTenant(run_us=1000, row_us=10_000), [[0, 1], [2, 3]]),  # like a core per worker: two rows take half the time
        (FakeTenant(run_us=9000, row_us=500), [[0, 1, 2, 3], []]),  # like a GPU: four rows hardly take longer than two
        (FakeTenant(), [[0, 1, 2, 3], []]),  # never measured
        (FakeTenant(run_us=1000, row_us=10_000, preferred_rows=(4,)), [[0, 1, 2, 3], []]),
        (FakeTenant(run_us=1000, row_us=10_000, instances=1), [[0, 1, 2, 3], []]),
    ],
)
def test_idle_workers_divide_waiting_requests_if_that_finishes_sooner(tenant: FakeTenant, taken: list[list[int]]) -> None:
    device = Device(tenant)
    for _ in range(4):
        device.add()
    assert [numbers(device.take(idle=idle).batch) for idle in (2, 1)] == taken


def test_a_model_never_has_more_runs_in_progress_than_instances() -> None:
    device = Device(FakeTenant(instances=2, effective_max_batch=1), FakeTenant())
    for at in (0, 0, 0, 1):
        device.add(at)
    assert [numbers(device.take().batch) for _ in range(4)] == [[0], [1], [3], []]
    device.end()
    assert numbers(device.take().batch) == [2]


def test_a_request_that_waits_for_an_instance_does_not_block_other_models() -> None:
    device = Device(FakeTenant(instances=1, effective_max_batch=1, max_delay_s=0.5), FakeTenant())
    device.add(0, priority=1)
    device.add(0, priority=1)
    device.take()
    device.add(1, priority=3)
    assert numbers(device.take().batch) == [2]
    assert device.take().wake_s is None  # only the end of a run can make it ready


LAST = (9, float("inf"))


def test_the_predicted_wait_counts_all_runs_except_a_shared_one() -> None:
    model, other = FakeTenant(run_us=100, row_us=10), FakeTenant(run_us=1000, effective_max_batch=2)
    device = Device(model, other)
    device.add(0, rows=3)
    device.add(0, batch_key="l", rows=2)
    device.add(1, rows=5)
    assert device.device_queue.predicted_us(model, "k", 1, *LAST) == (120 + 3 * 1000, 140, 10, 0)
    assert device.device_queue.predicted_us(other, "k", 1, *LAST) == (130 + 120, 3 * 1000, 0, 0)
    assert device.device_queue.predicted_us(other, "l", 1, *LAST) == (130 + 120 + 3 * 1000, 1000, 1000, 0)


def test_later_requests_are_not_counted_as_ahead() -> None:
    model, other = FakeTenant(run_us=100), FakeTenant(run_us=1000, effective_max_batch=1)
    device = Device(model, other)
    for priority in (1, 2, 3):
        device.add(1, priority=priority)
    now_s = device.now_s
    for priority, due_s, runs in [(1, now_s, 0), (1, now_s + 2, 1), (2, now_s, 1), (2, now_s + 2, 2), (3, now_s + 2, 3)]:
        ahead_us, _, _, overtaken = device.device_queue.predicted_us(model, "k", 1, priority, due_s)
        assert (ahead_us, overtaken) == (runs * 1000, 3 - runs)


@given(st.lists(st.tuples(st.integers(1, 3), DEADLINES), max_size=10), st.integers(1, 3), DEADLINES)
def test_the_predicted_work_ahead_is_what_really_runs_before(
    others: list[tuple[int, float | None]], priority: int, start_by_s: float | None
) -> None:
    """Requests of one model with another batch key, one row each: those predicted to be ahead are those that run before."""
    model = FakeTenant(effective_max_batch=1, run_us=1000)
    device = Device(model)
    for other, other_deadline_s in others:
        device.add(priority=other, start_by_s=other_deadline_s)
    ahead_us, *_ = device.device_queue.predicted_us(
        model, "l", 1, priority, due(model, device.now_s, None if start_by_s is None else device.now_s + start_by_s)
    )
    mine = device.add(batch_key="l", priority=priority, start_by_s=start_by_s)
    before, expired = 0, {request.number for request in device.waiting if device.stale(request)}
    while mine not in expired and (ran := device.run()) != [mine]:
        before += len(ran)
    if not expired:
        assert ahead_us == before * 1000


@given(st.lists(st.integers(1, 1000), max_size=50))
def test_priorities_without_waiting_requests_use_no_memory(priorities: list[int]) -> None:
    device = Device(FakeTenant())
    for priority in priorities:
        device.add(priority=priority)
        assert device.device_queue.waiting(device.tenants[0], priority + 1000) == 0
    while device.run():
        pass
    assert device.tenants[0].account.by_priority == {}


def test_arrivals_are_recorded_with_their_slack() -> None:
    device = Device(FakeTenant())
    device.add(start_by_s=0.01)
    device.add()

    kinds = {arrivals.slack_us for arrivals in device.device_queue.arrivals(device.now_s, 2)}
    assert kinds == {2**14, math.inf}


def test_a_forecast_does_not_mind_requests_that_come_while_it_reads_the_queue() -> None:
    """A garbage collection in the middle of it may let another thread in; here its finalizers are that thread."""
    queue: DeviceQueue[FakeRequest] = DeviceQueue()
    tenant, arrived = FakeTenant(run_us=10.0), count(100)

    class Arrives:
        def __del__(self) -> None:
            number = next(arrived)
            queue.add(FakeRequest(tenant, number, batch_key=number))
            if number < 200:
                leave()

    def leave() -> None:
        garbage = Arrives()
        garbage.itself = garbage  # type: ignore[attr-defined]

    for number in range(50):
        queue.add(FakeRequest(tenant, number, batch_key=number))
    thresholds = gc.get_threshold()
    try:
        leave()
        gc.set_threshold(1, 1, 1)
        assert queue.predicted_us(tenant, "new", 1, 1, 0.0)[:3] == (0.0, 10.0, 10.0)
    finally:
        gc.set_threshold(*thresholds)


def on_cores(most: int = 1, row_us: float = 0, **options: Any) -> FakeTenant:
    """A model that may have a run on each core from two rows on: of `most` rows at most, in 16 ms and `row_us` for each row."""
    one_core = FakeTenant(run_us=16_000, row_us=row_us, effective_max_batch=most)
    return FakeTenant(run_us=10_000, per_core=one_core, **options)


def test_a_lone_request_has_all_cores_and_several_have_one_each() -> None:
    device = Device(on_cores())
    first = device.add()
    alone = device.take(cores=Cores(2, free=2, requests=1))
    assert (numbers(alone.batch), alone.per_core) == ([first], False)
    device.end()
    second, third = device.add(), device.add()
    runs = [device.take(cores=Cores(2, free=free, requests=2)) for free in (2, 1)]
    assert [(numbers(run.batch), run.per_core) for run in runs] == [([second], True), ([third], True)]


@pytest.mark.parametrize("requests", [1, 2])
def test_a_lone_request_of_many_rows_has_all_cores(requests: int) -> None:
    """Its rows can't be shared out between runs; those of several requests can, where so many rows were tried on a core."""
    device = Device(on_cores(most=4))
    for _ in range(requests):
        device.add(rows=4)
    assert device.take(cores=Cores(2, free=2, requests=requests)).per_core is (requests == 2)


def test_a_request_of_more_rows_than_were_tried_on_a_core_has_all_of_them() -> None:
    device = Device(on_cores(most=4))
    for _ in range(3):
        device.add(rows=9)
    assert not device.take(cores=Cores(2, free=2, requests=3)).per_core


@pytest.mark.parametrize("gone", ["timed out", "cancelled"])
def test_a_request_behind_one_that_is_gone_has_all_cores_if_one_would_make_it_late(gone: str) -> None:
    device = Device(on_cores())
    device.take()  # the last look for such requests
    stale = device.add(start_by_s=0.0005 if gone == "timed out" else None)
    hurried = device.add(deadline_s=0.0125)
    device.add()
    if gone == "cancelled":
        device.waiting[0].cancelled = True
    device.now_s += 0.001
    run = device.take(cores=Cores(2, free=2, requests=3))
    assert (hurried in numbers(run.batch), run.per_core) == (True, False)
    assert numbers([*run.expired, *run.cancelled]) == [stale]


def test_a_request_that_waits_alone_has_one_core_if_others_are_about_to_be_back() -> None:
    device = Device(on_cores())
    device.add()
    assert device.take(cores=Cores(2, free=1, requests=2)).per_core


def test_many_rows_are_shared_out_between_the_cores() -> None:
    device = Device(on_cores(most=4, row_us=16_000))
    for _ in range(6):
        device.add()
    runs = [device.take(cores=Cores(2, free=free, requests=6)) for free in (2, 1)]
    assert [len(run.batch) for run in runs] == [3, 3]


def test_while_every_core_is_taken_requests_wait_for_one() -> None:
    device = Device(on_cores())
    device.add()
    assert not device.take(idle=1, cores=Cores(2, free=0, requests=3)).batch
    assert device.take(idle=1, cores=Cores(2, free=1, requests=2)).per_core


def test_while_a_run_has_all_cores_nothing_begins() -> None:
    device = Device(on_cores())
    device.add()
    device.add()
    assert not device.take(idle=0, cores=Cores(2, free=0, requests=3)).batch


@pytest.mark.parametrize(
    ("deadline_s", "target_s", "per_core"),
    [(None, None, True), (0.02, None, True), (0.015, None, False), (None, 0.015, False), (None, 0.02, True)],
)
def test_a_request_that_would_be_late_on_one_core_has_all_of_them(
    deadline_s: float | None, target_s: float | None, per_core: bool
) -> None:
    device = Device(on_cores(target_s=target_s))
    device.add(deadline_s=deadline_s)
    assert device.take(cores=Cores(2, free=2, requests=4)).per_core is per_core


def test_rows_that_would_be_late_together_on_one_core_have_all_of_them() -> None:
    device = Device(on_cores(most=4, row_us=4_000))
    for _ in range(8):
        device.add(deadline_s=0.030)  # one row on one core takes 20 ms, and four take 32
    run = device.take(cores=Cores(2, free=2, requests=8))
    assert (len(run.batch), run.per_core, run.expired) == (8, False, [])


def test_a_model_without_the_choice_runs_beside_one_that_has_it() -> None:
    device = Device(FakeTenant(run_us=10_000), on_cores())
    device.add(0)
    device.add(1)
    runs = [device.take(idle=idle, cores=cores) for idle, cores in ((1, Cores(2, 2, 2)), (0, Cores(2, 0, 2)))]
    assert [(numbers(run.batch), run.per_core) for run in runs] == [([0], False), ([], False)]
    device.end()
    assert device.take(cores=Cores(2, 2, 2)).per_core
