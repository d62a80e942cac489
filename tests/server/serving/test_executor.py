import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    Overloaded,
    ServingError,
    Unavailable,
)
from turnout_server.core.metrics import Metrics, Series
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling.routing import Forecast
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.executor import Executor
from turnout_server.serving.job import Execution, Job

from tests.server.fakes import AddingSession, Clock, deployment, profile


class Desk:
    """An executor, a model on it with its session, a clock, and the outcomes in the order in which they came."""

    def __init__(self, instances: int = 1, limit: int = 100, cpus: Sequence[int] = ()) -> None:
        self.session = AddingSession()
        self.model = deployment(self.session)
        self.clock = Clock()
        self.metrics = Metrics()
        runner = BatchRunner("cpu", self.metrics, self.clock)
        self.executor = Executor("cpu", runner, instances, limit, self.clock, cpus)
        self.outcomes: SimpleQueue[tuple[int, Execution | ServingError]] = SimpleQueue()

    def submit(self, value: int, rows: int = 1, model: Deployment | None = None, width: int = 2, **options: Any) -> Job:
        """Sends in `rows` rows that all add up to `2 * value`."""
        array = np.full((rows, width), value, np.float32)

        def done(outcome: Execution | ServingError) -> None:
            self.outcomes.put((value, outcome))

        job = Job(model or self.model, {"a": array, "b": array}, ("y",), rows, width, done, **options)
        self.executor.submit(job)
        return job

    def series(self, model: Deployment | None = None) -> Series:
        """What was counted of the model, once every run is over; takes nothing more from then on."""
        self.executor.stop(timeout_s=10)
        return self.metrics.totals()[(model or self.model).key]

    def hold(self) -> None:
        """Occupies the worker until `release`; its own outcome is the first."""
        self.session.gate.clear()
        self.submit(0)
        assert self.session.started.acquire(timeout=10)

    def release(self) -> None:
        self.session.gate.set()

    def take(self, count: int) -> dict[int, Execution | ServingError]:
        """The next outcomes, by value."""
        return dict(self.outcomes.get(timeout=10) for _ in range(count))


@pytest.fixture
def make() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(**arguments: Any) -> Desk:
        desks.append(Desk(**arguments))
        return desks[-1]

    yield make
    for desk in desks:
        desk.release()
        desk.executor.stop(timeout_s=10)


@pytest.fixture
def desk(make: Callable[..., Desk]) -> Desk:
    return make()


def assert_answered(outcome: Execution | ServingError, value: int, rows: int = 1) -> None:
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], np.full((rows, 2), 2 * value))


def fail_on(value: int, error: BaseException) -> Callable[[Mapping[str, np.ndarray]], None]:
    """Trouble for every run with this value in it."""

    def trouble(inputs: Mapping[str, np.ndarray]) -> None:
        if value in inputs["a"]:
            raise error

    return trouble


def test_an_idle_worker_takes_what_is_waiting_at_once(desk: Desk) -> None:
    for value in (1, 2, 3):
        desk.submit(value)
        assert_answered(desk.take(1)[value], value)
    assert desk.session.runs == [1, 1, 1]


def test_a_worker_keeps_to_its_cores_and_the_process_does_not(make: Callable[..., Desk]) -> None:
    usable = os.sched_getaffinity(0)
    desk, seen = make(cpus=[min(usable)]), []
    desk.session.trouble = lambda inputs: seen.append(os.sched_getaffinity(0))
    desk.submit(1)
    assert_answered(desk.take(1)[1], 1)
    assert seen == [{min(usable)}]
    assert os.sched_getaffinity(0) == usable


def test_a_worker_whose_cores_are_gone_works_on_any(make: Callable[..., Desk], caplog: pytest.LogCaptureFixture) -> None:
    desk = make(cpus=[4000])
    desk.submit(1)
    assert_answered(desk.take(1)[1], 1)
    assert "device cpu is not kept to the cores [4000]" in caplog.text


def test_what_waits_for_a_busy_worker_runs_together(desk: Desk) -> None:
    desk.hold()
    for value in (1, 2, 3):
        desk.submit(value, rows=value)
    desk.release()
    for value, outcome in desk.take(4).items():
        assert_answered(outcome, value, rows=max(1, value))
    assert desk.session.runs == [1, 6]


def test_an_execution_tells_rows_and_times_and_its_run_is_counted_once(desk: Desk) -> None:
    desk.hold()
    desk.submit(1)
    desk.submit(2, rows=3)
    desk.clock.now_s += 5
    desk.release()
    outcomes = desk.take(3)
    ran = [outcomes[1], outcomes[2]]
    assert [(o.batch_rows, o.queue_s) for o in ran if isinstance(o, Execution)] == [(4, 5), (4, 5)]
    assert {rows: batches.count for rows, batches in desk.series().batches.items()} == {1: 1, 4: 1}
    assert desk.series().executions == 2


def test_cancelled_request_leaves_batch_mates_unharmed(desk: Desk) -> None:
    desk.hold()
    works = {value: desk.submit(value) for value in (1, 2, 3)}
    works[2].cancel()
    desk.release()
    outcomes = desk.take(4)
    assert isinstance(outcomes[2], Cancelled)
    assert_answered(outcomes[1], 1)
    assert_answered(outcomes[3], 3)
    assert desk.session.runs == [1, 2]


def test_expired_request_never_runs(desk: Desk) -> None:
    desk.hold()
    desk.submit(1, start_by_s=desk.clock.now_s + 1)
    desk.submit(2, start_by_s=desk.clock.now_s + 3)
    desk.clock.now_s += 2
    desk.release()
    outcomes = desk.take(3)
    assert isinstance(outcomes[1], DeadlineExceeded)
    assert_answered(outcomes[2], 2)
    assert desk.session.runs == [1, 1]


def test_one_bad_request_fails_alone(desk: Desk) -> None:
    desk.session.trouble = fail_on(2, InvalidRequest("no twos"))
    desk.hold()
    for value in (1, 2, 3):
        desk.submit(value)
    desk.release()
    outcomes = desk.take(4)
    assert isinstance(outcomes[2], InvalidRequest)
    assert_answered(outcomes[1], 1)
    assert_answered(outcomes[3], 3)


@pytest.mark.parametrize("error", [RuntimeError("a secret"), KeyboardInterrupt(), SystemExit(1), MemoryError()], ids=repr)
def test_whatever_a_run_raises_ends_its_requests_and_the_worker_lives(desk: Desk, error: BaseException) -> None:
    desk.session.trouble = fail_on(1, error)
    desk.submit(1)
    outcome = desk.take(1)[1]
    assert isinstance(outcome, InternalError)
    assert "secret" not in str(outcome)
    desk.submit(2)
    assert_answered(desk.take(1)[2], 2)


def test_a_run_that_gives_back_too_few_rows_answers_nobody(desk: Desk) -> None:
    desk.hold()
    desk.session.run = lambda inputs, outputs: [inputs["a"][:1]]  # type: ignore[method-assign]
    desk.submit(1)
    desk.submit(2)
    desk.release()
    outcomes = desk.take(3)
    assert isinstance(outcomes[1], InternalError)
    assert isinstance(outcomes[2], InternalError)


def test_an_answer_that_cannot_be_delivered_leaves_the_worker_alive(desk: Desk) -> None:
    calls: list[Execution | ServingError] = []

    def broken(outcome: Execution | ServingError) -> None:
        calls.append(outcome)
        raise RuntimeError("the wire is gone")

    array = np.zeros((1, 2), np.float32)
    desk.executor.submit(Job(desk.model, {"a": array, "b": array}, ("y",), 1, 2, broken))
    desk.submit(1)
    assert_answered(desk.take(1)[1], 1)
    assert [type(call) for call in calls] == [Execution, InternalError]


def test_a_full_queue_is_refused_at_once(make: Callable[..., Desk]) -> None:
    desk = make(limit=2)
    desk.hold()
    desk.submit(1)
    desk.submit(2)
    with pytest.raises(Overloaded, match="Exceeds maximum queue size: 2 requests wait for device 'cpu'"):
        desk.submit(3)
    desk.release()
    assert sorted(desk.take(3)) == [0, 1, 2]


def test_a_full_queue_makes_room_of_those_that_nobody_wants_any_more(make: Callable[..., Desk]) -> None:
    desk = make(limit=2)
    desk.hold()
    desk.submit(1).cancel()
    desk.submit(2, start_by_s=desk.clock.now_s + 1)
    desk.clock.now_s += 2
    desk.submit(3)
    desk.submit(4)
    dropped = desk.take(2)  # while the worker is busy
    assert (type(dropped[1]), type(dropped[2])) == (Cancelled, DeadlineExceeded)
    with pytest.raises(Overloaded):
        desk.submit(5)


def test_a_models_own_limit_is_refused_while_other_models_still_wait(desk: Desk) -> None:
    desk.hold()
    desk.submit(1, max_waiting=1)
    with pytest.raises(Overloaded, match="Exceeds maximum queue size: 1 requests wait for this model on device 'cpu'"):
        desk.submit(2, max_waiting=1)
    desk.submit(3, max_waiting=1, model=deployment(name="other"))
    desk.release()
    assert sorted(desk.take(3)) == [0, 1, 3]


def test_a_models_limit_counts_each_priority_by_itself(desk: Desk) -> None:
    desk.hold()
    desk.submit(1, priority=1, max_waiting=1)
    desk.submit(2, priority=2, max_waiting=2)
    desk.submit(3, priority=2, max_waiting=2)
    for priority, max_waiting in [(1, 1), (2, 2)]:
        with pytest.raises(Overloaded, match=f"{max_waiting} requests wait for this model"):
            desk.submit(4, priority=priority, max_waiting=max_waiting)
    desk.release()
    assert sorted(desk.take(4)) == [0, 1, 2, 3]


def test_a_request_ends_exactly_once() -> None:
    outcomes: SimpleQueue[Execution | ServingError] = SimpleQueue()
    job = Job(deployment(), {"a": np.zeros((1, 2))}, ("y",), 1, 2, outcomes.put)
    barrier = threading.Barrier(8)
    won: SimpleQueue[bool] = SimpleQueue()

    def finish() -> None:
        barrier.wait(timeout=10)
        won.put(job.complete(Cancelled("raced")))

    threads = [threading.Thread(target=finish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won.get() for _ in threads) == [False] * 7 + [True]
    assert outcomes.qsize() == 1


def test_an_outcome_that_comes_when_its_request_has_ended_is_dropped_and_counted(desk: Desk) -> None:
    desk.session.gate.clear()
    job = desk.submit(1)
    assert desk.session.started.acquire(timeout=10)
    assert job.complete(Cancelled("its caller went away"))
    desk.release()
    assert desk.series().late == 1
    assert isinstance(desk.take(1)[1], Cancelled)
    assert desk.outcomes.empty()


def test_different_shapes_and_models_do_not_share_a_run(desk: Desk) -> None:
    other = AddingSession()
    desk.hold()
    desk.submit(1)
    desk.submit(9, width=3)
    desk.submit(2)
    desk.submit(8, model=deployment(other, "other"))
    desk.release()
    desk.take(5)
    assert (desk.session.runs, other.runs) == ([1, 2, 1], [1])


def test_the_more_urgent_goes_first(desk: Desk) -> None:
    desk.hold()
    for value, priority in [(1, 3), (2, 1), (3, 2)]:
        desk.submit(value, width=2 + value, priority=priority)
    desk.release()
    assert list(desk.take(4)) == [0, 2, 3, 1]


def test_each_instance_runs_beside_the_others(make: Callable[..., Desk]) -> None:
    desk = make(instances=2)
    desk.hold()
    desk.submit(1)
    assert desk.session.started.acquire(timeout=10)  # while the first still runs
    assert desk.executor.running == 2
    desk.release()
    desk.take(2)


def test_stop_drains_what_waits_and_takes_nothing_more(desk: Desk) -> None:
    desk.hold()
    desk.submit(1)
    stopping = threading.Thread(target=desk.executor.stop, args=(10,))
    stopping.start()
    desk.release()
    stopping.join(timeout=10)
    assert_answered(desk.take(2)[1], 1)
    with pytest.raises(Unavailable):
        desk.submit(2)
    assert desk.executor.idle


def test_stop_fails_what_it_has_no_time_for(desk: Desk) -> None:
    desk.hold()
    desk.submit(1)
    desk.executor.stop(timeout_s=0)
    assert isinstance(desk.take(1)[1], Unavailable)
    desk.release()
    assert_answered(desk.take(1)[0], 0)


def test_stop_runs_at_once_what_waits_for_a_fuller_batch(desk: Desk) -> None:
    desk.model.max_delay_s = 1000.0
    desk.submit(1)
    desk.executor.stop(timeout_s=10)
    assert_answered(desk.take(1)[1], 1)


def test_stop_does_not_wait_for_workers_that_a_models_limit_kept_idle(make: Callable[..., Desk]) -> None:
    desk = make(instances=3)
    desk.model.instances = 1
    desk.hold()
    desk.submit(1, width=3)
    stopping = threading.Thread(target=desk.executor.stop, args=(60,))
    stopping.start()
    desk.release()
    stopping.join(timeout=10)
    assert not stopping.is_alive()
    assert sorted(desk.take(2)) == [0, 1]


def test_a_batch_that_may_wait_for_more_runs_when_it_is_full_or_its_time_is_up(desk: Desk) -> None:
    desk.model.max_delay_s = 0.005
    desk.submit(1, rows=3)
    assert desk.session.runs == []  # the clock stands still
    desk.submit(2, rows=5)
    assert sorted(desk.take(2)) == [1, 2]
    desk.submit(3)
    desk.clock.now_s += 0.005
    assert_answered(desk.take(1)[3], 3)
    assert desk.session.runs == [8, 1]


def test_no_more_runs_of_a_model_go_on_than_it_has_instances(make: Callable[..., Desk]) -> None:
    desk = make(instances=3)
    desk.model.instances = 1
    other = AddingSession()
    desk.hold()
    desk.submit(1)
    desk.submit(2, model=deployment(other, "other"))
    assert sorted(desk.take(1)) == [2]  # beside the one that is held
    assert desk.session.runs == [1]
    desk.release()
    assert sorted(desk.take(2)) == [0, 1]


def long_runs(session: AddingSession) -> Deployment:
    """A model whose rows get no cheaper beyond four at a time, and whose runs are worth splitting."""
    return deployment(session, max_rows=16, profile=profile({1: 2000, 4: 2000, 16: 8000}))


class Large:
    """A request of ten different rows for a model that runs four at a time."""

    def __init__(self, desk: Desk) -> None:
        desk.model = long_runs(desk.session)
        self.a = np.arange(20, dtype=np.float32).reshape(10, 2)
        self.outcomes: SimpleQueue[Execution | ServingError] = SimpleQueue()
        self._desk = desk

    def submit(self, **options: Any) -> Job:
        job = Job(self._desk.model, {"a": self.a, "b": self.a}, ("y",), 10, 2, self.outcomes.put, **options)
        self._desk.executor.submit(job)
        return job

    def outcome(self) -> Execution | ServingError:
        return self.outcomes.get(timeout=10)


@pytest.fixture
def large(desk: Desk) -> Large:
    return Large(desk)


def test_a_large_request_is_run_in_parts_and_answered_as_a_whole(desk: Desk, large: Large) -> None:
    def take_a_second(_: object) -> None:
        desk.clock.now_s += 1

    desk.session.trouble = take_a_second
    large.submit()
    outcome = large.outcome()
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], large.a * 2)
    assert (outcome.batch_rows, outcome.queue_s, outcome.compute_s) == (4, 0, 3)
    assert {rows: batches.count for rows, batches in desk.series().batches.items()} == {4: 2, 2: 1}


def test_a_part_shares_its_run_with_other_requests(desk: Desk, large: Large) -> None:
    desk.hold()
    large.submit()
    desk.submit(1)
    desk.submit(2)
    desk.release()
    outcomes = desk.take(3)
    assert_answered(outcomes[1], 1)
    assert_answered(outcomes[2], 2)
    outcome = large.outcome()
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], large.a * 2)
    assert desk.session.runs == [1, 4, 4, 4]


def test_parts_that_end_in_any_order_are_put_together_in_theirs(make: Callable[..., Desk]) -> None:
    desk = make(instances=3)
    large = Large(desk)
    others: list[threading.Event] = [threading.Event(), threading.Event()]

    def first_waits_for_the_others(inputs: Mapping[str, np.ndarray]) -> None:
        at = int(inputs["a"][0, 0]) // 8  # each row has two numbers
        if at == 0:
            assert all(other.wait(timeout=10) for other in others)
        else:
            others[at - 1].set()

    desk.session.trouble = first_waits_for_the_others
    large.submit()
    outcome = large.outcome()
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], large.a * 2)


def test_one_failing_part_fails_the_whole_once_and_spares_the_device_the_rest(desk: Desk, large: Large) -> None:
    desk.session.trouble = fail_on(9, InvalidRequest("no nines"))  # in the second part
    large.submit()
    assert isinstance(large.outcome(), InvalidRequest)
    desk.submit(1)
    assert_answered(desk.take(1)[1], 1)
    assert desk.session.runs == [4, 4, 1]
    assert large.outcomes.empty()


def test_a_cancelled_request_runs_none_of_the_parts_that_wait(desk: Desk, large: Large) -> None:
    desk.session.gate.clear()
    work = large.submit()
    assert desk.session.started.acquire(timeout=10)
    work.cancel()
    desk.release()
    assert isinstance(large.outcome(), Cancelled)
    assert desk.series().executions == 1
    assert large.outcomes.empty()


def test_a_request_that_was_cancelled_before_it_was_split_runs_not_at_all(desk: Desk, large: Large) -> None:
    desk.hold()
    work = Job(desk.model, {"a": large.a, "b": large.a}, ("y",), 10, 2, large.outcomes.put)
    work.cancel()
    desk.executor.submit(work)
    desk.release()
    assert isinstance(large.outcome(), Cancelled)
    assert desk.series().executions == 1


def test_a_request_whose_deadline_passes_between_its_parts_ends_once(desk: Desk, large: Large) -> None:
    def take_a_second(_: object) -> None:
        desk.clock.now_s += 1

    desk.session.trouble = take_a_second
    large.submit(start_by_s=desk.clock.now_s + 1)
    assert isinstance(large.outcome(), DeadlineExceeded)
    assert desk.series().executions == 1
    assert large.outcomes.empty()


def test_stop_fails_a_request_whose_parts_still_wait(desk: Desk, large: Large) -> None:
    desk.hold()
    large.submit()
    desk.executor.stop(timeout_s=0)
    assert isinstance(large.outcome(), Unavailable)
    desk.release()
    assert large.outcomes.empty()


def forecast(wait_us: int, service_us: int, added_us: int, alone_us: int, fastest_us: int) -> Forecast:
    return Forecast("cpu", None, wait_us, service_us, added_us, alone_us, fastest_us)


class Forecasts:
    """A desk whose model takes 1 ms for one row, and 100 us more for each further one."""

    def __init__(self, make: Callable[..., Desk], instances: int = 1) -> None:
        self.desk = make(instances=instances)
        self.desk.model = self.model("adds", self.desk.session)
        self.other = self.model("other")

    @staticmethod
    def model(name: str, session: AddingSession | None = None) -> Deployment:
        return deployment(session, name, profile=profile({1: 1000, 8: 1700}))

    def of(self, rows: int, **options: Any) -> Forecast:
        found = self.desk.executor.forecast(self.desk.model, 2, rows, **options)
        assert found.wait_us is not None
        return forecast(*map(round, (found.wait_us, found.service_us, found.added_us, found.alone_us, found.fastest_us)))


def test_an_idle_device_is_expected_to_take_what_a_run_takes(make: Callable[..., Desk]) -> None:
    on_idle = Forecasts(make)
    assert on_idle.of(2) == forecast(wait_us=0, service_us=1100, added_us=1100, alone_us=1100, fastest_us=1100)


def test_a_model_that_was_never_measured_has_no_forecast(desk: Desk) -> None:
    assert not desk.executor.forecast(desk.model, 2, 1).measured


def test_what_runs_is_waited_for_until_it_should_be_over(make: Callable[..., Desk]) -> None:
    on_busy = Forecasts(make)
    on_busy.desk.hold()
    assert on_busy.of(2) == forecast(1000, 1100, 1100, 1100, 1100)
    on_busy.desk.clock.now_s += 400e-6
    assert on_busy.of(2).wait_us == 600
    on_busy.desk.clock.now_s += 1  # it takes longer than it should
    assert on_busy.of(2).wait_us == 0


def test_a_run_that_can_be_shared_is_only_made_longer(make: Callable[..., Desk]) -> None:
    on_busy = Forecasts(make)
    on_busy.desk.hold()
    on_busy.desk.submit(1, rows=3)
    assert on_busy.of(2) == forecast(wait_us=1000, service_us=1400, added_us=200, alone_us=1100, fastest_us=1100)
    assert on_busy.of(8) == forecast(1000, 1700 + 1200, 1700, 1700, 1700)  # eleven rows in two runs


def test_what_waits_and_cannot_be_shared_is_ahead(make: Callable[..., Desk]) -> None:
    on_busy = Forecasts(make)
    on_busy.desk.hold()
    on_busy.desk.submit(1, rows=3, model=on_busy.other)
    on_busy.desk.submit(1, rows=3, width=3)
    assert on_busy.of(2) == forecast(1000 + 1200 + 1200, 1100, 1100, 1100, 1100)


def test_what_is_less_urgent_or_due_later_is_not_waited_for(make: Callable[..., Desk]) -> None:
    on_busy = Forecasts(make)
    on_busy.desk.hold()
    on_busy.desk.submit(1, rows=3, model=on_busy.other, priority=2)
    assert on_busy.of(2, priority=1).wait_us == 1000
    assert on_busy.of(2, priority=2).wait_us == 1000 + 1200
    assert on_busy.of(2, priority=2, start_by_s=on_busy.desk.clock.now_s + 0.01).wait_us == 1000


def test_instances_share_what_is_ahead(make: Callable[..., Desk]) -> None:
    on_two = Forecasts(make, instances=2)
    on_two.desk.hold()
    assert on_two.of(1).wait_us == 0  # the other is free
    on_two.desk.submit(1)
    assert on_two.desk.session.started.acquire(timeout=10)
    assert on_two.of(1).wait_us == 1000  # both are free by then: half of what is ahead for each
    on_two.desk.submit(1, width=3)
    assert on_two.of(1).wait_us == 1500


def test_who_comes_to_a_device_does_not_count_while_one_more_run_leaves_an_instance_free(make: Callable[..., Desk]) -> None:
    on_one, on_two = make(), make(instances=2)
    for desk in (on_one, on_two):
        desk.hold()
    on_two.submit(1)
    assert on_two.session.started.acquire(timeout=10)

    assert [round(arrivals.per_s, 3) for arrivals in on_one.executor.arrivals(2)] == [1]
    assert [round(arrivals.per_s, 3) for arrivals in on_two.executor.arrivals(2)] == [1]  # two for two instances
    assert make(instances=2).executor.arrivals(2) == ()
