"""Who runs next: no request is lost, no model is forgotten."""

import math
from collections import Counter
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnout_server.scheduling.device_queue import DEFAULT_DUE_S, MAX_LAG_S, STARVED_S, SWEEP_S, DeviceQueue, due
from turnout_server.scheduling.entries import Selection

from tests.server.fakes import FakeRequest, FakeTenant

EPSILON_S = 1e-6  # sums of seconds aren't exact


class Device:
    """A device_queue, the time, and what became of every request."""

    def __init__(self, *tenants: FakeTenant) -> None:
        self.device_queue: DeviceQueue[FakeRequest] = DeviceQueue()
        self.tenants = tenants
        self.now_s = 1000.0
        self.waiting: list[FakeRequest] = []
        self.running: list[list[FakeRequest]] = []
        self.left: Counter[int] = Counter()
        self._numbers = count()

    def add(self, at: int = 0, *, start_by_s: float | None = None, deadline_s: float | None = None, **options: Any) -> int:
        """A request for a tenant, which must begin, and be over, in so many seconds; returns its number."""
        request = FakeRequest(self.tenants[at], next(self._numbers), enqueued_s=self.now_s, **options)
        request.start_by_s = None if start_by_s is None else self.now_s + start_by_s
        request.deadline_s = None if deadline_s is None else self.now_s + deadline_s
        self.waiting.append(request)
        self.device_queue.add(request)
        return request.number

    def take(self, *, hurry: bool = False, idle: int = 1) -> Selection[FakeRequest]:
        """The next run begins, if there is one."""
        selection = self.device_queue.take(self.now_s, hurry=hurry, idle=idle)
        if selection.batch:
            self.running.append(selection.batch)
        self._leave([*selection.batch, *selection.expired, *selection.cancelled])
        return selection

    def run(self) -> list[int]:
        """The numbers of the requests in the next run, which is over at once."""
        batch = numbers(self.take().batch)
        if batch:
            self.end()
        return batch

    def end(self, service_s: float = 0.0) -> None:
        """The run that began first is over, after so many seconds."""
        self.now_s += service_s
        self.device_queue.ended(self.running.pop(0)[0].tenant, service_s)

    def sweep(self) -> Selection[FakeRequest]:
        selection: Selection[FakeRequest] = Selection()
        self.device_queue.sweep(self.now_s, selection)
        self._leave([*selection.expired, *selection.cancelled])
        return selection

    def clear(self) -> None:
        self._leave(self.device_queue.clear())

    def dead(self, request: FakeRequest) -> bool:
        return request.cancelled or (request.start_by_s is not None and request.start_by_s <= self.now_s)

    def late(self, request: FakeRequest) -> bool:
        """Whether its run would be over too late; on these devices runs of all sizes take equally long."""
        return request.deadline_s is not None and request.deadline_s < self.now_s + (request.tenant.run_us or 0) * 1e-6

    def _leave(self, requests: list[FakeRequest]) -> None:
        for request in requests:
            self.left[request.number] += 1
            self.waiting.remove(request)


def numbers(requests: list[FakeRequest]) -> list[int]:
    return [request.number for request in requests]


def order_of(request: FakeRequest) -> tuple[int, float, int]:
    """Smaller goes first among those that may share a run."""
    patience_s = DEFAULT_DUE_S if request.tenant.target_s is None else request.tenant.target_s
    due_s = min(request.enqueued_s + patience_s, float("inf") if request.start_by_s is None else request.start_by_s)
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
#: What happens next, and to what.
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
            assert all(map(device.dead, selection.expired))
            assert not any(map(device.dead, device.waiting))
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
        assert device.dead(request) or device.late(request)


def check_selection(device: Device, selection: Selection[FakeRequest]) -> None:
    """A run is of live equals, within the cap, and of those that come first."""
    check_dropped(device, selection)
    batch = selection.batch
    if not batch:
        return
    tenant, batch_key = batch[0].tenant, batch[0].batch_key
    assert not any(device.dead(request) for request in batch)
    assert len(batch) == 1 or not any(device.late(request) for request in batch)
    assert not device.late(batch[0]) or not device.waiting  # nobody else is kept waiting by it
    assert all((request.tenant, request.batch_key) == (tenant, batch_key) for request in batch)
    assert len(batch) == 1 or sum(request.rows for request in batch) <= tenant.effective_max_batch
    assert all(order_of(a) < order_of(b) for a, b in pairwise(batch))
    left_behind = [request for request in device.waiting if (request.tenant, request.batch_key) == (tenant, batch_key)]
    assert all(order_of(batch[-1]) < order_of(request) for request in left_behind)


@given(st.tuples(TENANTS, TENANTS, TENANTS), st.lists(STEPS, max_size=30))
def test_in_a_hurry_only_a_models_instances_keep_a_request_waiting(
    tenants: tuple[FakeTenant, ...], steps: list[tuple[str, Any]]
) -> None:
    device = Device(*tenants)
    for what, detail in steps:
        if what == "add":
            device.add(**detail)
    while something_left(device.take(hurry=True)):
        pass
    assert all(request.tenant.account.running == request.tenant.instances > 0 for request in device.waiting)


def something_left(selection: Selection[FakeRequest]) -> bool:
    return bool(selection.batch or selection.expired or selection.cancelled)


def test_the_cancelled_and_the_expired_leave_without_a_run_and_change_nothing_for_their_mates() -> None:
    device = Device(FakeTenant())
    cancelled, expired, alive = device.add(), device.add(start_by_s=1), device.add()
    device.waiting[0].cancelled = True
    device.now_s += 1
    selection = device.take()
    assert [numbers(way) for way in (selection.batch, selection.expired, selection.cancelled)] == [
        [alive],
        [expired],
        [cancelled],
    ]


def test_those_that_nobody_wants_are_found_though_others_go_first() -> None:
    device = Device(FakeTenant(effective_max_batch=1), FakeTenant())
    device.add(0, priority=1)
    device.add(0, priority=1)
    expired = device.add(1, start_by_s=1)
    device.run()
    device.now_s += 1 + SWEEP_S
    assert numbers(device.take().expired) == [expired]


def test_with_nobody_waiting_what_would_be_late_may_try_its_luck() -> None:
    device = Device(FakeTenant(run_us=500_000))
    late = device.add(deadline_s=0.25)
    assert device.run() == [late]


def test_patient_mates_do_not_make_a_request_late() -> None:
    device = Device(FakeTenant(row_us=1000, run_us=0, effective_max_batch=8))
    urgent = device.add(deadline_s=0.005, start_by_s=0.004)
    patient = [device.add() for _ in range(7)]
    first = device.run()
    assert first[0] == urgent
    assert len(first) <= 5
    assert first + device.run() == [urgent, *patient]


def test_where_more_waits_than_fits_a_run_who_would_be_late_in_a_full_one_is_dropped() -> None:
    device = Device(FakeTenant(row_us=1000, run_us=0, effective_max_batch=4))
    late = device.add(deadline_s=0.003, start_by_s=0.002)
    others = [device.add() for _ in range(4)]
    selection = device.take()
    assert (numbers(selection.expired), numbers(selection.batch)) == ([late], others)


def test_a_delay_ends_in_time_for_who_has_a_deadline() -> None:
    device = Device(FakeTenant(run_us=10_000, max_delay_s=0.1))
    device.add(deadline_s=0.05)
    selection = device.take()
    assert not selection.batch
    assert selection.wake_s == pytest.approx(device.now_s + 0.04)


def test_a_newcomer_starts_level_with_those_of_its_own_priority() -> None:
    urgent, patient, newcomer = FakeTenant(), FakeTenant(), FakeTenant()
    device = Device(urgent, patient, newcomer)
    for _ in range(3):  # the urgent model has had 30 s, the patient one next to nothing
        device.add(0, priority=1)
        device.take()
        device.end(10.0)
    device.add(1, priority=3)
    device.run()
    device.add(0, priority=1)
    device.add(2, priority=1)
    assert urgent.account.used_s == 30
    assert newcomer.account.used_s == 20  # what the other had had when its last run began


def test_what_would_be_over_too_late_does_not_run() -> None:
    device = Device(FakeTenant(run_us=500_000))
    late, in_time = device.add(deadline_s=0.25), device.add(deadline_s=0.75)
    selection = device.take()
    assert (numbers(selection.expired), numbers(selection.batch)) == ([late], [in_time])


def test_nothing_to_do_is_nothing_to_wait_for() -> None:
    assert Device().take() == Selection()


def test_a_request_larger_than_the_cap_runs_alone() -> None:
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
        ({"start_by_s": 1.1 * DEFAULT_DUE_S}, False),  # each counts as due after a while, so none waits for ever
        ({}, False),
    ],
    ids=["due sooner", "due later", "came later"],
)
def test_the_earliest_due_goes_first_among_equals(options: dict[str, float], sooner: bool) -> None:
    device = Device(FakeTenant(), FakeTenant())
    first, second = device.add(0), device.add(1, **options)
    assert device.run() == [second if sooner else first]


def test_a_models_target_makes_its_requests_due_sooner() -> None:
    device = Device(FakeTenant(), FakeTenant(target_s=0.5 * DEFAULT_DUE_S))
    patient = device.add(0)
    device.now_s += 0.4 * DEFAULT_DUE_S
    targeted = device.add(1)
    assert (device.run(), device.run()) == ([targeted], [patient])


def test_a_model_that_fell_behind_its_share_goes_before_one_that_is_due_sooner() -> None:
    device = Device(FakeTenant(), FakeTenant())
    device.add(0)
    device.add(1)
    device.take()
    device.end(MAX_LAG_S * 1.5)
    urgent = device.add(0, start_by_s=0.01)
    assert device.run() == [1]
    assert device.run() == [urgent]


def test_a_model_that_comes_back_after_a_pause_has_saved_up_nothing() -> None:
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
def test_models_that_always_have_work_never_differ_by_more_than_a_lag_and_their_longest_runs(
    data: st.DataObject, weights: list[float], workers: int
) -> None:
    """A worker's run is charged when it is over, so the bound has one run for each worker."""
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
    patient = device.tenants[-1]
    device.add(urgent_models, priority=3)
    waits_since_s = device.now_s
    for service_s in services:
        for at in range(urgent_models):
            device.add(at, priority=1)
        (request,) = device.take().batch
        if request.tenant is patient:
            assert device.now_s - waits_since_s > STARVED_S  # no sooner than it must
            waits_since_s = device.now_s
            device.add(urgent_models, priority=3)
        device.end(service_s)
        assert device.now_s - waits_since_s <= STARVED_S + 2 * max(services)  # its own run, or another that had begun


def test_several_that_are_starved_take_turns_with_the_more_urgent_longest_waiting_first() -> None:
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
def test_a_higher_priority_has_every_other_run_at_least(services: list[float], patient_models: int) -> None:
    """However long runs are, and however many models have waited too long meanwhile."""
    device = Device(*(FakeTenant(effective_max_batch=1) for _ in range(patient_models + 1)))
    urgent = []
    for service_s in services:
        for at in range(patient_models + 1):
            device.add(at, priority=3 if at else 1)
        urgent.append(device.take().batch[0].priority == 1)
        device.end(service_s)
    assert all(one or other for one, other in pairwise(urgent))


def test_a_models_own_less_urgent_requests_never_overtake() -> None:
    device = Device(FakeTenant())
    patient, urgent = device.add(batch_key="k", priority=3), device.add(batch_key="l", priority=1)
    device.now_s += 2 * STARVED_S  # something else ran so long
    assert (device.run(), device.run()) == ([urgent], [patient])


def test_requests_wait_for_a_fuller_batch_no_longer_than_they_may() -> None:
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
    assert device.run() == [0]  # the other doesn't fit, and waits for more


def test_in_a_hurry_no_batch_waits_for_more() -> None:
    device = Device(FakeTenant(max_delay_s=0.5, preferred_rows=(4,)))
    device.add(rows=3)
    assert numbers(device.take(hurry=True).batch) == [0]


def test_a_preferred_size_runs_as_soon_as_it_is_there_and_what_is_left_waits() -> None:
    device = Device(FakeTenant(max_delay_s=0.5, preferred_rows=(4, 6), effective_max_batch=8))
    three = [device.add() for _ in range(3)]
    assert device.run() == []
    rest = [device.add() for _ in range(2)]
    assert device.run() == [*three, rest[0]]
    assert device.run() == []
    device.now_s += 0.5
    assert device.run() == [rest[1]]


def test_without_a_delay_preferred_sizes_make_nobody_wait() -> None:
    device = Device(FakeTenant(preferred_rows=(4,), effective_max_batch=8))
    device.add()
    assert device.run() == [0]
    for _ in range(7):
        device.add()
    assert [len(device.run()) for _ in range(2)] == [4, 3]


@pytest.mark.parametrize(
    ("tenant", "taken"),
    [
        (FakeTenant(run_us=1000, row_us=10_000), [[0, 1], [2, 3]]),  # a core each: two rows are done in half the time
        (FakeTenant(run_us=9000, row_us=500), [[0, 1, 2, 3], []]),  # a GPU: four rows are hardly more work than two
        (FakeTenant(), [[0, 1, 2, 3], []]),  # never measured
        (FakeTenant(run_us=1000, row_us=10_000, preferred_rows=(4,)), [[0, 1, 2, 3], []]),
        (FakeTenant(run_us=1000, row_us=10_000, instances=1), [[0, 1, 2, 3], []]),
    ],
)
def test_what_waits_is_shared_out_between_idle_workers_where_that_is_sooner_done(
    tenant: FakeTenant, taken: list[list[int]]
) -> None:
    device = Device(tenant)
    for _ in range(4):
        device.add()
    assert [numbers(device.take(idle=idle).batch) for idle in (2, 1)] == taken


def test_no_more_runs_of_a_model_begin_than_it_has_instances() -> None:
    device = Device(FakeTenant(instances=2, effective_max_batch=1), FakeTenant())
    for at in (0, 0, 0, 1):
        device.add(at)
    assert [numbers(device.take().batch) for _ in range(4)] == [[0], [1], [3], []]
    device.end()
    assert numbers(device.take().batch) == [2]


def test_who_waits_for_an_instance_holds_nobody_up() -> None:
    device = Device(FakeTenant(instances=1, effective_max_batch=1, max_delay_s=0.5), FakeTenant())
    device.add(0, priority=1)
    device.add(0, priority=1)
    device.take()
    device.add(1, priority=3)
    assert numbers(device.take().batch) == [2]
    assert device.take().wake_s is None  # only the end of a run changes anything


LAST = (9, float("inf"))


def test_what_is_ahead_is_every_run_but_those_that_would_be_shared() -> None:
    model, other = FakeTenant(run_us=100, row_us=10), FakeTenant(run_us=1000, effective_max_batch=2)
    device = Device(model, other)
    device.add(0, rows=3)
    device.add(0, batch_key="l", rows=2)
    device.add(1, rows=5)
    assert device.device_queue.predicted_us(model, "k", 1, *LAST) == (120 + 3 * 1000, 140, 10)
    assert device.device_queue.predicted_us(other, "k", 1, *LAST) == (130 + 120, 3 * 1000, 0)
    assert device.device_queue.predicted_us(other, "l", 1, *LAST) == (130 + 120 + 3 * 1000, 1000, 1000)


def test_what_goes_after_a_request_is_not_ahead_of_it() -> None:
    model, other = FakeTenant(run_us=100), FakeTenant(run_us=1000, effective_max_batch=1)
    device = Device(model, other)
    for priority in (1, 2, 3):
        device.add(1, priority=priority)
    now_s = device.now_s
    for priority, due_s, runs in [(1, now_s, 0), (1, now_s + 2, 1), (2, now_s, 1), (2, now_s + 2, 2), (3, now_s + 2, 3)]:
        assert device.device_queue.predicted_us(model, "k", 1, priority, due_s)[0] == runs * 1000


@given(st.lists(st.tuples(st.integers(1, 3), DEADLINES), max_size=10), st.integers(1, 3), DEADLINES)
def test_no_more_is_ahead_of_a_request_than_runs_before_it(
    others: list[tuple[int, float | None]], priority: int, start_by_s: float | None
) -> None:
    """One model's requests of another shape, one row each: whatever runs before a request was predicted to."""
    model = FakeTenant(effective_max_batch=1, run_us=1000)
    device = Device(model)
    for other, other_deadline_s in others:
        device.add(priority=other, start_by_s=other_deadline_s)
    ahead_us, _, _ = device.device_queue.predicted_us(
        model, "l", 1, priority, due(model, device.now_s, None if start_by_s is None else device.now_s + start_by_s)
    )
    mine = device.add(batch_key="l", priority=priority, start_by_s=start_by_s)
    before, expired = 0, {request.number for request in device.waiting if device.dead(request)}
    while mine not in expired and (ran := device.run()) != [mine]:
        before += len(ran)
    if not expired:
        assert ahead_us == before * 1000


@given(st.lists(st.integers(1, 1000), max_size=50))
def test_priorities_that_nobody_waits_at_are_forgotten(priorities: list[int]) -> None:
    device = Device(FakeTenant())
    for priority in priorities:
        device.add(priority=priority)
        assert device.device_queue.waiting(device.tenants[0], priority + 1000) == 0
    while device.run():
        pass
    assert device.tenants[0].account.by_priority == {}


def test_those_who_come_are_known_by_how_long_they_can_wait() -> None:
    device = Device(FakeTenant())
    device.add(start_by_s=0.01)
    device.add()

    kinds = {arrivals.slack_us for arrivals in device.device_queue.arrivals(device.now_s, 2)}
    assert kinds == {2**14, math.inf}
