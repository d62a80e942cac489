import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from turnout_server.models.per_core import PerCore
from turnout_server.scheduling.routing import Forecast
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.executor import Executor
from turnout_server.serving.job import Execution, Job

from tests.faulty import until
from tests.server.fakes import AddingSession, Clock, deployment, profile


class Bench:
    """An executor with a model, its session and a clock, and the outcomes in order of arrival."""

    def __init__(self, instances: int = 1, limit: int = 100, cpus: Sequence[int] = (), cores: int = 0) -> None:
        self.session = AddingSession()
        self.model = deployment(self.session)
        self.clock = Clock()
        self.metrics = Metrics()
        runner = BatchRunner("cpu", self.metrics, self.clock)
        self.executor = Executor({"cpu": runner}, instances, limit, self.clock, cpus, cores=cores)
        self.outcomes: SimpleQueue[tuple[int, Execution | ServingError]] = SimpleQueue()

    def submit(self, value: int, rows: int = 1, model: Deployment | None = None, width: int = 2, **options: Any) -> Job:
        """Submits `rows` rows whose sums are all `2 * value`."""
        array = np.full((rows, width), value, np.float32)

        def done(outcome: Execution | ServingError) -> None:
            self.outcomes.put((value, outcome))

        job = Job(model or self.model, {"a": array, "b": array}, ("y",), rows, width, done, **options)
        self.executor.submit(job)
        return job

    def series(self, model: Deployment | None = None) -> Series:
        """The model's counters after all runs; the executor takes no more jobs."""
        self.executor.stop(timeout_s=10)
        return self.metrics.totals()[(model or self.model).key]

    def hold(self) -> None:
        """Occupies the worker with a job of value 0 until `release`."""
        self.session.gate.clear()
        self.submit(0)
        assert self.session.started.acquire(timeout=10)

    def release(self) -> None:
        self.session.gate.set()

    def take(self, count: int) -> dict[int, Execution | ServingError]:
        """The next outcomes, by value."""
        return dict(self.outcomes.get(timeout=10) for _ in range(count))


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**arguments: Any) -> Bench:
        benches.append(Bench(**arguments))
        return benches[-1]

    yield make
    for bench in benches:
        bench.release()
        bench.executor.stop(timeout_s=10)


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def assert_answered(outcome: Execution | ServingError, value: int, rows: int = 1) -> None:
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], np.full((rows, 2), 2 * value))


def fail_on(value: int, error: BaseException) -> Callable[[Mapping[str, np.ndarray]], None]:
    """Fails every run whose inputs have this value."""

    def trouble(inputs: Mapping[str, np.ndarray]) -> None:
        if value in inputs["a"]:
            raise error

    return trouble


def test_an_idle_worker_takes_what_is_waiting_at_once(bench: Bench) -> None:
    for value in (1, 2, 3):
        bench.submit(value)
        assert_answered(bench.take(1)[value], value)
    assert bench.session.runs == [1, 1, 1]


def test_a_worker_is_pinned_to_its_cores_and_the_process_is_not(make: Callable[..., Bench]) -> None:
    usable = os.sched_getaffinity(0)
    bench, seen = make(cpus=[min(usable)]), []
    bench.session.trouble = lambda inputs: seen.append(os.sched_getaffinity(0))
    bench.submit(1)
    assert_answered(bench.take(1)[1], 1)
    assert seen == [{min(usable)}]
    assert os.sched_getaffinity(0) == usable


def test_a_worker_that_cannot_be_pinned_works_on_any_core(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    bench = make(cpus=[4000])
    bench.submit(1)
    assert_answered(bench.take(1)[1], 1)
    assert "device 'cpu' is not pinned to the cores [4000]" in caplog.text


def test_requests_that_wait_for_a_busy_worker_are_batched(bench: Bench) -> None:
    bench.hold()
    for value in (1, 2, 3):
        bench.submit(value, rows=value)
    bench.release()
    for value, outcome in bench.take(4).items():
        assert_answered(outcome, value, rows=max(1, value))
    assert bench.session.runs == [1, 6]


def test_an_execution_has_rows_and_times_and_its_run_is_counted_once(bench: Bench) -> None:
    bench.hold()
    bench.submit(1)
    bench.submit(2, rows=3)
    bench.clock.now_s += 5
    bench.release()
    outcomes = bench.take(3)
    ran = [outcomes[1], outcomes[2]]
    assert [(o.batch_rows, o.queue_s) for o in ran if isinstance(o, Execution)] == [(4, 5), (4, 5)]
    assert {rows: batches.count for rows, batches in bench.series().batches.items()} == {1: 1, 4: 1}
    assert bench.series().executions == 2


def test_cancelled_request_leaves_batch_mates_unharmed(bench: Bench) -> None:
    bench.hold()
    jobs = {value: bench.submit(value) for value in (1, 2, 3)}
    jobs[2].cancel()
    bench.release()
    outcomes = bench.take(4)
    assert isinstance(outcomes[2], Cancelled)
    assert_answered(outcomes[1], 1)
    assert_answered(outcomes[3], 3)
    assert bench.session.runs == [1, 2]


def test_expired_request_never_runs(bench: Bench) -> None:
    bench.hold()
    bench.submit(1, start_by_s=bench.clock.now_s + 1)
    bench.submit(2, start_by_s=bench.clock.now_s + 3)
    bench.clock.now_s += 2
    bench.release()
    outcomes = bench.take(3)
    assert isinstance(outcomes[1], DeadlineExceeded)
    assert_answered(outcomes[2], 2)
    assert bench.session.runs == [1, 1]


def test_one_bad_request_fails_alone(bench: Bench) -> None:
    bench.session.trouble = fail_on(2, InvalidRequest("no twos"))
    bench.hold()
    for value in (1, 2, 3):
        bench.submit(value)
    bench.release()
    outcomes = bench.take(4)
    assert isinstance(outcomes[2], InvalidRequest)
    assert_answered(outcomes[1], 1)
    assert_answered(outcomes[3], 3)


@pytest.mark.parametrize("error", [RuntimeError("a secret"), KeyboardInterrupt(), SystemExit(1), MemoryError()], ids=repr)
def test_101_102_an_error_in_a_run_fails_its_requests_and_the_worker_lives(bench: Bench, error: BaseException) -> None:
    bench.session.trouble = fail_on(1, error)
    bench.submit(1)
    outcome = bench.take(1)[1]
    assert isinstance(outcome, Overloaded if isinstance(error, MemoryError) else InternalError)
    assert "secret" not in str(outcome)
    bench.submit(2)
    assert_answered(bench.take(1)[2], 2)


def test_a_run_with_too_few_rows_fails_all_its_requests(bench: Bench) -> None:
    bench.hold()
    bench.session.run = lambda inputs, outputs: [inputs["a"][:1]]  # type: ignore[method-assign]
    bench.submit(1)
    bench.submit(2)
    bench.release()
    outcomes = bench.take(3)
    assert isinstance(outcomes[1], InternalError)
    assert isinstance(outcomes[2], InternalError)


@pytest.mark.parametrize(("error", "shown"), [(RuntimeError("the wire is gone"), InternalError), (MemoryError(), Overloaded)])
def test_an_answer_that_cannot_be_delivered_leaves_the_worker_alive(bench: Bench, error: Exception, shown: type) -> None:
    calls: list[Execution | ServingError] = []

    def broken(outcome: Execution | ServingError) -> None:
        calls.append(outcome)
        raise error

    array = np.zeros((1, 2), np.float32)
    bench.executor.submit(Job(bench.model, {"a": array, "b": array}, ("y",), 1, 2, broken))
    bench.submit(1)
    assert_answered(bench.take(1)[1], 1)
    assert [type(call) for call in calls] == [Execution, shown]


def test_a_full_queue_refuses_at_once(make: Callable[..., Bench]) -> None:
    bench = make(limit=2)
    bench.hold()
    bench.submit(1)
    bench.submit(2)
    with pytest.raises(Overloaded, match="Exceeds maximum queue size: 2 requests wait for device 'cpu'"):
        bench.submit(3)
    bench.release()
    assert sorted(bench.take(3)) == [0, 1, 2]


def test_a_full_queue_drops_stale_requests_to_make_room(make: Callable[..., Bench]) -> None:
    bench = make(limit=2)
    bench.hold()
    bench.submit(1).cancel()
    bench.submit(2, start_by_s=bench.clock.now_s + 1)
    bench.clock.now_s += 2
    bench.submit(3)
    bench.submit(4)
    dropped = bench.take(2)  # while the worker is busy
    assert (type(dropped[1]), type(dropped[2])) == (Cancelled, DeadlineExceeded)
    with pytest.raises(Overloaded):
        bench.submit(5)


def test_a_models_own_limit_does_not_affect_other_models(bench: Bench) -> None:
    bench.hold()
    bench.submit(1, max_waiting=1)
    with pytest.raises(Overloaded, match="Exceeds maximum queue size: 1 requests wait for this model on device 'cpu'"):
        bench.submit(2, max_waiting=1)
    bench.submit(3, max_waiting=1, model=deployment(name="other"))
    bench.release()
    assert sorted(bench.take(3)) == [0, 1, 3]


def test_a_models_limit_counts_each_priority_by_itself(bench: Bench) -> None:
    bench.hold()
    bench.submit(1, priority=1, max_waiting=1)
    bench.submit(2, priority=2, max_waiting=2)
    bench.submit(3, priority=2, max_waiting=2)
    for priority, max_waiting in [(1, 1), (2, 2)]:
        with pytest.raises(Overloaded, match=f"{max_waiting} requests wait for this model"):
            bench.submit(4, priority=priority, max_waiting=max_waiting)
    bench.release()
    assert sorted(bench.take(4)) == [0, 1, 2, 3]


def test_a_job_completes_exactly_once() -> None:
    outcomes: SimpleQueue[Execution | ServingError] = SimpleQueue()
    job = Job(deployment(), {"a": np.zeros((1, 2))}, ("y",), 1, 2, outcomes.put)
    barrier = threading.Barrier(8)
    won: SimpleQueue[bool] = SimpleQueue()

    def complete() -> None:
        barrier.wait(timeout=10)
        won.put(job.complete(Cancelled("raced")))

    threads = [threading.Thread(target=complete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won.get() for _ in threads) == [False] * 7 + [True]
    assert outcomes.qsize() == 1


def test_a_late_outcome_is_dropped_and_counted(bench: Bench) -> None:
    bench.session.gate.clear()
    job = bench.submit(1)
    assert bench.session.started.acquire(timeout=10)
    assert job.complete(Cancelled("its caller went away"))
    bench.release()
    assert bench.series().late == 1
    assert isinstance(bench.take(1)[1], Cancelled)
    assert bench.outcomes.empty()


def test_different_shapes_and_models_do_not_share_a_run(bench: Bench) -> None:
    other = AddingSession()
    bench.hold()
    bench.submit(1)
    bench.submit(9, width=3)
    bench.submit(2)
    bench.submit(8, model=deployment(other, "other"))
    bench.release()
    bench.take(5)
    assert (bench.session.runs, other.runs) == ([1, 2, 1], [1])


def test_more_urgent_requests_run_first(bench: Bench) -> None:
    bench.hold()
    for value, priority in [(1, 3), (2, 1), (3, 2)]:
        bench.submit(value, width=2 + value, priority=priority)
    bench.release()
    assert list(bench.take(4)) == [0, 2, 3, 1]


def test_instances_run_at_the_same_time(make: Callable[..., Bench]) -> None:
    bench = make(instances=2)
    bench.hold()
    bench.submit(1)
    assert bench.session.started.acquire(timeout=10)  # while the first run is in progress
    assert bench.executor.running("cpu") == 2
    bench.release()
    bench.take(2)


def test_stop_finishes_queued_jobs_and_takes_no_more(bench: Bench) -> None:
    bench.hold()
    bench.submit(1)
    stopping = threading.Thread(target=bench.executor.stop, args=(10,))
    stopping.start()
    bench.release()
    stopping.join(timeout=10)
    assert_answered(bench.take(2)[1], 1)
    with pytest.raises(Unavailable):
        bench.submit(2)
    assert bench.executor.idle


def test_stop_fails_what_is_left_after_its_timeout(bench: Bench) -> None:
    bench.hold()
    bench.submit(1)
    bench.executor.stop(timeout_s=0)
    assert isinstance(bench.take(1)[1], Unavailable)
    bench.release()
    assert_answered(bench.take(1)[0], 0)


def test_stop_runs_jobs_at_once_that_wait_for_a_fuller_batch(bench: Bench) -> None:
    bench.model.max_delay_s = 1000.0
    bench.submit(1)
    bench.executor.stop(timeout_s=10)
    assert_answered(bench.take(1)[1], 1)


def test_stop_does_not_wait_for_workers_that_a_models_limit_kept_idle(make: Callable[..., Bench]) -> None:
    bench = make(instances=3)
    bench.model.instances = 1
    bench.hold()
    bench.submit(1, width=3)
    stopping = threading.Thread(target=bench.executor.stop, args=(60,))
    stopping.start()
    bench.release()
    stopping.join(timeout=10)
    assert not stopping.is_alive()
    assert sorted(bench.take(2)) == [0, 1]


def test_a_delayed_batch_runs_when_it_is_full_or_its_delay_ends(bench: Bench) -> None:
    bench.model.max_delay_s = 0.005
    bench.submit(1, rows=3)
    assert bench.session.runs == []  # the clock stands still
    bench.submit(2, rows=5)
    assert sorted(bench.take(2)) == [1, 2]
    bench.submit(3)
    bench.clock.now_s += 0.005
    assert_answered(bench.take(1)[3], 3)
    assert bench.session.runs == [8, 1]


def test_a_model_never_has_more_runs_in_progress_than_instances(make: Callable[..., Bench]) -> None:
    bench = make(instances=3)
    bench.model.instances = 1
    other = AddingSession()
    bench.hold()
    bench.submit(1)
    bench.submit(2, model=deployment(other, "other"))
    assert sorted(bench.take(1)) == [2]  # while the first is held
    assert bench.session.runs == [1]
    bench.release()
    assert sorted(bench.take(2)) == [0, 1]


def long_runs(session: AddingSession) -> Deployment:
    """A model with an effective maximum batch of four rows, and runs that are long enough to split."""
    return deployment(session, max_rows=16, profile=profile({1: 2000, 4: 2000, 16: 8000}))


class Large:
    """A request of ten different rows for a model that runs four rows at a time."""

    def __init__(self, bench: Bench) -> None:
        bench.model = long_runs(bench.session)
        self.a = np.arange(20, dtype=np.float32).reshape(10, 2)
        self.outcomes: SimpleQueue[Execution | ServingError] = SimpleQueue()
        self._desk = bench

    def submit(self, **options: Any) -> Job:
        job = Job(self._desk.model, {"a": self.a, "b": self.a}, ("y",), 10, 2, self.outcomes.put, **options)
        self._desk.executor.submit(job)
        return job

    def outcome(self) -> Execution | ServingError:
        return self.outcomes.get(timeout=10)


@pytest.fixture
def large(bench: Bench) -> Large:
    return Large(bench)


def test_a_large_request_is_run_in_chunks_and_answered_as_a_whole(bench: Bench, large: Large) -> None:
    def take_a_second(_: object) -> None:
        bench.clock.now_s += 1

    bench.session.trouble = take_a_second
    large.submit()
    outcome = large.outcome()
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], large.a * 2)
    assert (outcome.batch_rows, outcome.queue_s, outcome.compute_s) == (4, 0, 3)
    assert {rows: batches.count for rows, batches in bench.series().batches.items()} == {4: 2, 2: 1}


def test_a_chunk_is_batched_with_other_requests(bench: Bench, large: Large) -> None:
    bench.hold()
    large.submit()
    bench.submit(1)
    bench.submit(2)
    bench.release()
    outcomes = bench.take(3)
    assert_answered(outcomes[1], 1)
    assert_answered(outcomes[2], 2)
    outcome = large.outcome()
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], large.a * 2)
    assert bench.session.runs == [1, 4, 4, 4]


def test_chunks_that_end_in_any_order_are_reassembled_in_theirs(make: Callable[..., Bench]) -> None:
    bench = make(instances=3)
    large = Large(bench)
    others: list[threading.Event] = [threading.Event(), threading.Event()]

    def first_waits_for_the_others(inputs: Mapping[str, np.ndarray]) -> None:
        at = int(inputs["a"][0, 0]) // 8  # each row has two numbers
        if at == 0:
            assert all(other.wait(timeout=10) for other in others)
        else:
            others[at - 1].set()

    bench.session.trouble = first_waits_for_the_others
    large.submit()
    outcome = large.outcome()
    assert isinstance(outcome, Execution)
    np.testing.assert_array_equal(outcome.outputs[0], large.a * 2)


def test_a_failing_chunk_fails_the_request_once_and_its_other_chunks_do_not_run(bench: Bench, large: Large) -> None:
    bench.session.trouble = fail_on(9, InvalidRequest("no nines"))  # in the second chunk
    large.submit()
    assert isinstance(large.outcome(), InvalidRequest)
    bench.submit(1)
    assert_answered(bench.take(1)[1], 1)
    assert bench.session.runs == [4, 4, 1]
    assert large.outcomes.empty()


def test_a_cancelled_request_runs_none_of_its_queued_chunks(bench: Bench, large: Large) -> None:
    bench.session.gate.clear()
    job = large.submit()
    assert bench.session.started.acquire(timeout=10)
    job.cancel()
    bench.release()
    assert isinstance(large.outcome(), Cancelled)
    assert bench.series().executions == 1
    assert large.outcomes.empty()


def test_a_request_cancelled_before_it_is_split_does_not_run(bench: Bench, large: Large) -> None:
    bench.hold()
    job = Job(bench.model, {"a": large.a, "b": large.a}, ("y",), 10, 2, large.outcomes.put)
    job.cancel()
    bench.executor.submit(job)
    bench.release()
    assert isinstance(large.outcome(), Cancelled)
    assert bench.series().executions == 1


def test_a_request_whose_deadline_passes_between_its_chunks_completes_once(bench: Bench, large: Large) -> None:
    def take_a_second(_: object) -> None:
        bench.clock.now_s += 1

    bench.session.trouble = take_a_second
    large.submit(start_by_s=bench.clock.now_s + 1)
    assert isinstance(large.outcome(), DeadlineExceeded)
    assert bench.series().executions == 1
    assert large.outcomes.empty()


def test_stop_fails_a_request_whose_chunks_still_wait(bench: Bench, large: Large) -> None:
    bench.hold()
    large.submit()
    bench.executor.stop(timeout_s=0)
    assert isinstance(large.outcome(), Unavailable)
    bench.release()
    assert large.outcomes.empty()


def forecast(wait_us: int, service_us: int, added_us: int, alone_us: int, fastest_us: int) -> Forecast:
    return Forecast("cpu", None, wait_us, service_us, added_us, alone_us, fastest_us)


class Forecasts:
    """A bench whose model takes 1 ms for one row, and 100 us more for each further row."""

    def __init__(self, make: Callable[..., Bench], instances: int = 1) -> None:
        self.bench = make(instances=instances)
        self.bench.model = self.model("adds", self.bench.session)
        self.other = self.model("other")

    @staticmethod
    def model(name: str, session: AddingSession | None = None) -> Deployment:
        return deployment(session, name, profile=profile({1: 1000, 8: 1700}))

    def of(self, rows: int, **options: Any) -> Forecast:
        found = self.bench.executor.forecast(self.bench.model, 2, rows, **options)
        assert found.wait_us is not None
        return forecast(*map(round, (found.wait_us, found.service_us, found.added_us, found.alone_us, found.fastest_us)))


def test_an_idle_device_is_predicted_to_take_the_time_of_a_run(make: Callable[..., Bench]) -> None:
    on_idle = Forecasts(make)
    assert on_idle.of(2) == forecast(wait_us=0, service_us=1100, added_us=1100, alone_us=1100, fastest_us=1100)


def test_a_model_that_was_never_measured_has_no_forecast(bench: Bench) -> None:
    assert not bench.executor.forecast(bench.model, 2, 1).measured


def test_a_run_in_progress_is_waited_for_until_its_predicted_end(make: Callable[..., Bench]) -> None:
    on_busy = Forecasts(make)
    on_busy.bench.hold()
    assert on_busy.of(2) == forecast(1000, 1100, 1100, 1100, 1100)
    on_busy.bench.clock.now_s += 400e-6
    assert on_busy.of(2).wait_us == 600
    on_busy.bench.clock.now_s += 1  # the run takes longer than predicted
    assert on_busy.of(2).wait_us == 0


def test_a_batched_request_only_makes_its_run_longer(make: Callable[..., Bench]) -> None:
    on_busy = Forecasts(make)
    on_busy.bench.hold()
    on_busy.bench.submit(1, rows=3)
    assert on_busy.of(2) == forecast(wait_us=1000, service_us=1400, added_us=200, alone_us=1100, fastest_us=1100)
    assert on_busy.of(8) == forecast(1000, 1700 + 1200, 1700, 1700, 1700)  # eleven rows in two runs


def test_queued_requests_that_cannot_be_batched_with_it_are_ahead(make: Callable[..., Bench]) -> None:
    on_busy = Forecasts(make)
    on_busy.bench.hold()
    on_busy.bench.submit(1, rows=3, model=on_busy.other)
    on_busy.bench.submit(1, rows=3, width=3)
    assert on_busy.of(2) == forecast(1000 + 1200 + 1200, 1100, 1100, 1100, 1100)


def test_requests_that_are_less_urgent_or_due_later_are_not_ahead(make: Callable[..., Bench]) -> None:
    on_busy = Forecasts(make)
    on_busy.bench.hold()
    on_busy.bench.submit(1, rows=3, model=on_busy.other, priority=2)
    assert on_busy.of(2, priority=1).wait_us == 1000
    assert on_busy.of(2, priority=2).wait_us == 1000 + 1200
    assert on_busy.of(2, priority=2, start_by_s=on_busy.bench.clock.now_s + 0.01).wait_us == 1000


def test_instances_share_the_work_ahead(make: Callable[..., Bench]) -> None:
    on_two = Forecasts(make, instances=2)
    on_two.bench.hold()
    assert on_two.of(1).wait_us == 0  # the other is free
    on_two.bench.submit(1)
    assert on_two.bench.session.started.acquire(timeout=10)
    assert on_two.of(1).wait_us == 1000  # both are free by then and share what is ahead
    on_two.bench.submit(1, width=3)
    assert on_two.of(1).wait_us == 1500


def test_arrivals_do_not_count_while_one_more_run_leaves_an_instance_free(make: Callable[..., Bench]) -> None:
    on_one, on_two = make(), make(instances=2)
    for bench in (on_one, on_two):
        bench.hold()
    on_two.submit(1)
    assert on_two.session.started.acquire(timeout=10)

    assert [round(arrivals.per_s, 3) for arrivals in on_one.executor.arrivals(2)] == [1]
    assert [round(arrivals.per_s, 3) for arrivals in on_two.executor.arrivals(2)] == [
        1
    ]  # two arrivals per second for two instances
    assert make(instances=2).executor.arrivals(2) == ()


def test_devices_of_one_place_take_turns_and_their_batches_stay_apart() -> None:
    bench = Bench()
    other, clock = AddingSession(), bench.clock
    there = deployment(other, device="openvino")
    runners = {name: BatchRunner(name, bench.metrics, clock) for name in ("cpu", "openvino")}
    bench.executor.stop(timeout_s=10)
    bench.executor = Executor(runners, 1, 4, clock)
    try:
        bench.hold()
        for value in (1, 2):
            bench.submit(value)
            bench.submit(value + 10, model=there)
        assert (bench.executor.running("cpu"), bench.executor.running("openvino")) == (1, 0)
        assert (bench.executor.waiting("cpu"), bench.executor.waiting("openvino")) == (2, 2)
        with pytest.raises(Overloaded, match="4 requests wait for devices 'cpu', 'openvino'"):
            bench.submit(9)
        assert other.runs == []  # the other engine waits for the turn
        bench.release()
        for value, outcome in bench.take(5).items():
            assert_answered(outcome, value)
    finally:
        bench.release()
        bench.executor.stop(timeout_s=10)
    assert (bench.session.runs, other.runs) == ([1, 2], [2])


def test_a_forecast_counts_what_waits_for_the_other_device_of_the_place() -> None:
    bench = Bench()
    other = AddingSession()
    here, there = (
        deployment(profile=profile({1: 1000, 8: 1000})),
        deployment(other, device="openvino", profile=profile({1: 500, 8: 500})),
    )
    runners = {name: BatchRunner(name, bench.metrics, bench.clock) for name in ("cpu", "openvino")}
    bench.executor.stop(timeout_s=10)
    bench.executor = Executor(runners, 1, 100, bench.clock)
    bench.model = deployment(bench.session, profile=profile({1: 1000, 8: 1000}))
    try:
        idle = bench.executor.forecast(there, 2, 1)
        assert (idle.device, idle.wait_us, idle.service_us) == ("openvino", 0.0, 500.0)
        bench.hold()
        bench.submit(1)
        busy = bench.executor.forecast(there, 2, 1)
        same = bench.executor.forecast(here, 2, 1)
        assert [busy.wait_us, same.wait_us] == pytest.approx([2000, 2000])  # the run, and what waits
        assert (busy.service_us, same.service_us) == (500.0, 1000.0)
        urgent = bench.executor.forecast(there, 2, 1, priority=0)
        assert (busy.place, busy.overtaken, urgent.overtaken) == ("cpu+openvino", 0, 1)
    finally:
        bench.release()
        bench.executor.stop(timeout_s=10)


def test_a_device_has_no_more_runs_at_once_than_its_own_instances() -> None:
    bench = Bench()
    other = AddingSession()
    there = deployment(other, device="pair")
    runners = {name: BatchRunner(name, bench.metrics, bench.clock) for name in ("cpu", "pair")}
    bench.executor.stop(timeout_s=10)
    bench.executor = Executor(runners, 2, 100, bench.clock, own={"cpu": 1, "pair": 2})
    try:
        bench.hold()
        bench.submit(1, width=3)  # another batch of the same device: it waits for the first
        bench.submit(11, model=there)
        assert_answered(bench.take(1)[11], 11)  # the other device's doesn't
        assert (bench.executor.running("cpu"), bench.executor.waiting("cpu")) == (1, 1)
        bench.release()
        assert sorted(bench.take(2)) == [0, 1]
    finally:
        bench.release()
        bench.executor.stop(timeout_s=10)


@pytest.fixture
def cores(make: Callable[..., Bench]) -> Bench:
    """An executor with two cores, and a model that may have a run on each: 16 ms instead of 10. Its clock stands still."""
    bench = make(cores=2)
    bench.model.profile = profile({1: 10_000.0, 2: 20_000.0})
    bench.model.per_core = PerCore(AddingSession(), 2, profile({1: 16_000.0}))
    return bench


def one_core(bench: Bench) -> AddingSession:
    assert bench.model.per_core is not None
    session = bench.model.per_core.session
    assert isinstance(session, AddingSession)
    return session


def begin_on_cores(bench: Bench, *values: int, runs: int = 2) -> None:
    """Has jobs wait for a run on all cores and then some of them begin on one core each; they last until the gate."""
    bench.hold()
    one_core(bench).gate.clear()
    for value in values:
        bench.submit(value)
    bench.release()
    for _ in range(runs):
        assert one_core(bench).started.acquire(timeout=10)


def test_clients_one_after_another_have_all_cores(cores: Bench) -> None:
    for value in range(1, 7):
        cores.submit(value)
        assert_answered(cores.take(1)[value], value)
    assert (cores.session.runs, one_core(cores).runs) == ([1] * 6, [])


def test_a_core_has_no_worker_before_it_has_a_run(make: Callable[..., Bench]) -> None:
    def workers() -> int:
        return sum(thread.name.startswith("cpu/") for thread in threading.enumerate())

    before = workers()
    bench = make(cores=64)
    bench.model.profile = profile({1: 10_000.0})
    bench.model.per_core = PerCore(AddingSession(), 64, profile({1: 16_000.0}))
    bench.hold()
    assert workers() - before == 1
    one_core(bench).gate.clear()
    for value in (1, 2, 3):
        bench.submit(value)
    bench.release()
    for _ in range(3):
        assert one_core(bench).started.acquire(timeout=10)
    assert workers() - before == 3
    one_core(bench).gate.set()
    bench.take(4)


def test_requests_that_waited_for_a_run_on_all_cores_have_one_each_at_the_same_time(cores: Bench) -> None:
    begin_on_cores(cores, 1, 2)  # both begin before either ends
    assert cores.executor.running("cpu") == 2
    one_core(cores).gate.set()
    for value, outcome in cores.take(3).items():
        assert_answered(outcome, value)
    assert (cores.session.runs, one_core(cores).runs) == ([1], [1, 1])


def test_more_requests_than_cores_wait_for_a_core_and_no_run_has_all_of_them_meanwhile(cores: Bench) -> None:
    begin_on_cores(cores, 1, 2, 3)
    for value in (4, 5):
        cores.submit(value)
    assert cores.executor.waiting("cpu") == 3
    assert not one_core(cores).started.acquire(timeout=0.1)
    one_core(cores).gate.set()
    cores.take(6)
    assert len(cores.session.runs) in (1, 2)  # the last may find nobody else there
    assert len(cores.session.runs) + len(one_core(cores).runs) == 6


def test_two_clients_in_a_loop_have_a_core_each_although_only_one_waits_at_a_time(cores: Bench) -> None:
    """As soon as one is answered it sends again, while the other one's request runs."""
    ended = {value: threading.Event() for value in range(1, 11)}

    def until_ended(inputs: Mapping[str, np.ndarray]) -> None:
        assert ended[int(inputs["a"][0, 0])].wait(timeout=10)

    cores.hold()
    one_core(cores).trouble = until_ended
    cores.submit(1)
    cores.submit(2)
    cores.release()
    cores.take(1)
    for _ in range(2):
        assert one_core(cores).started.acquire(timeout=10)
    for value in range(3, 11):
        ended[value - 2].set()
        cores.take(1)
        cores.submit(value)
        assert one_core(cores).started.acquire(timeout=10)
    ended[9].set()
    ended[10].set()
    cores.take(2)
    assert (cores.session.runs, len(one_core(cores).runs)) == ([1], 10)


def test_a_run_on_one_core_takes_half_of_a_device_of_two(cores: Bench) -> None:
    def tick(inputs: Mapping[str, np.ndarray]) -> None:
        cores.clock.now_s += 0.25

    one_core(cores).trouble = tick
    begin_on_cores(cores, 1, 2)
    one_core(cores).gate.set()
    cores.take(3)
    series = cores.series()
    assert series.executions == 3
    assert 0.25 <= series.busy_s <= 0.5  # either run may see the ticks of both


def test_one_bad_request_fails_alone_on_a_core_too(cores: Bench) -> None:
    assert cores.model.per_core is not None
    cores.model.per_core = replace(cores.model.per_core, profile=profile({1: 16_000.0, 2: 17_000.0}), max_rows=2)
    one_core(cores).trouble = fail_on(2, InvalidRequest("this one"))
    cores.hold()
    for value in (1, 2, 3, 4):
        cores.submit(value)
    cores.release()
    outcomes = cores.take(5)
    assert isinstance(outcomes[2], InvalidRequest)
    for value in (1, 3, 4):
        assert_answered(outcomes[value], value)


def test_a_forecast_knows_that_it_would_be_a_run_on_one_core(cores: Bench) -> None:
    begin_on_cores(cores, 1, 2)
    cores.take(1)
    forecast = cores.executor.forecast(cores.model, 2, 1)
    assert forecast.wait_us == pytest.approx(16_000)  # both cores are busy for so long
    assert forecast.service_us == pytest.approx(16_000)
    assert forecast.alone_us == cores.model.predict_us(1)
    late = cores.clock.now_s + 0.020
    hurried = cores.executor.forecast(cores.model, 2, 1, start_by_s=late - 0.010)
    assert hurried.service_us == forecast.alone_us  # one that would be late has all cores
    one_core(cores).gate.set()
    cores.take(2)


@pytest.mark.parametrize("cores", [4, 16])
def test_runs_on_some_cores_hold_up_no_run_on_all_of_them(make: Callable[..., Bench], cores: int) -> None:
    """So no request of another model is refused for a wait that doesn't exist: it begins at once, and shares the cores."""
    bench = make(cores=cores)
    bench.model.profile = profile({1: 10_000.0, 2: 20_000.0})
    bench.model.per_core = PerCore(AddingSession(), cores, profile({1: 16_000.0}))
    begin_on_cores(bench, *range(1, cores), runs=cores - 1)
    other = deployment(AddingSession(), name="other", profile=profile({1: 10_000.0}))
    forecast = bench.executor.forecast(other, 2, 1)
    assert forecast.wait_us == 0
    assert forecast.service_us == pytest.approx(10_000 + (cores - 1) / cores * 16_000)
    bench.submit(99, model=other)
    assert_answered(bench.take(2)[99], 99)  # the first was the one that the others waited for
    one_core(bench).gate.set()
    bench.take(cores - 1)


def test_a_run_on_all_cores_begins_while_every_core_has_one(cores: Bench) -> None:
    begin_on_cores(cores, 1, 2)
    cores.submit(99, model=deployment(AddingSession(), name="other", profile=profile({1: 10_000.0})))
    assert_answered(cores.take(2)[99], 99)
    one_core(cores).gate.set()
    cores.take(2)


def test_requests_that_were_cancelled_are_not_thought_to_be_there_hours_later(cores: Bench) -> None:
    cores.hold()
    for job in [cores.submit(value) for value in range(1, 9)]:
        job.cancel()
    cores.clock.now_s += 0.2
    cores.release()
    cores.take(9)
    until(lambda: cores.executor.idle)
    whole = len(cores.session.runs)
    cores.clock.now_s += 3600
    cores.submit(50)
    cores.take(1)
    assert (len(cores.session.runs) - whole, one_core(cores).runs) == (1, [])


def test_where_the_system_has_no_more_threads_those_that_are_there_do_the_work(
    cores: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cores.hold()
    cores.submit(1)
    cores.submit(2)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        cores.release()
        assert sorted(cores.take(3)) == [0, 1, 2]
        cores.hold()
        cores.submit(4)
        cores.release()
        cores.take(2)
    (record,) = caplog.records
    assert "device 'cpu' has 1 workers and no more: can't start new thread" in record.getMessage()
