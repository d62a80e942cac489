"""Work too small for another thread: run by the thread that brought it, once that thread has brought all it had."""

import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import Cancelled, DeadlineExceeded, Overloaded, ServingError
from turnout_server.core.metrics import Metrics
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling.profiles import Profile
from turnout_server.serving.executor import DRAIN_US, TINY_US, Executor
from turnout_server.serving.job import Execution, Work

from tests.server.fakes import AddingSession, Clock, deployment, profile

TIMEOUT_S = 10.0
Outcome = tuple[int, Execution | ServingError]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def executor(clock: Clock) -> Iterator[Executor]:
    """An executor that this thread drains."""
    executor = Executor("cpu", Metrics(), clock=clock)
    executor.drained()
    yield executor
    executor.stop(TIMEOUT_S)


def tiny(fastest_us: float | None = 10, **session: Any) -> Deployment:
    """A model whose runs take so long, and of which four may run together."""
    measured_us = {} if fastest_us is None else {1: fastest_us, 4: fastest_us}
    return deployment(AddingSession(**session), max_rows=4, profile=profile(measured_us))


class Outcomes:
    """What became of each work, in order, and which thread told."""

    def __init__(self) -> None:
        self.queue: Queue[tuple[int, int, Execution | ServingError]] = Queue()

    def work(self, model: Deployment, number: int = 0, **options: float) -> Work:
        array = np.full((1, 2), number, np.float32)

        def done(outcome: Execution | ServingError) -> None:
            self.queue.put((number, threading.get_ident(), outcome))

        return Work(model, {"a": array, "b": array}, ("y",), 1, "k", done, options.get("deadline_s"))

    def next(self) -> tuple[int, int, Execution | ServingError]:
        return self.queue.get(timeout=TIMEOUT_S)


def runs(model: Deployment) -> list[int]:
    """The rows of each run that its session has seen."""
    assert isinstance(model.session, AddingSession)
    return model.session.runs


def test_tiny_work_waits_for_the_drain_and_is_run_together_by_its_thread(executor: Executor) -> None:
    model, outcomes = tiny(), Outcomes()
    for number in range(3):
        executor.submit(outcomes.work(model, number))
    assert (runs(model), executor.in_flight()) == ([], 3)
    executor.drained()
    assert (runs(model), executor.in_flight()) == ([3], 0)
    for number in range(3):
        got, thread, outcome = outcomes.next()
        assert (got, thread) == (number, threading.get_ident())
        assert isinstance(outcome, Execution)
        assert outcome.outputs[0].tolist() == [[2 * number, 2 * number]]


@pytest.mark.parametrize("fastest_us", [None, TINY_US, 1e6])
def test_longer_or_unknown_work_goes_to_a_worker(executor: Executor, fastest_us: float | None) -> None:
    outcomes = Outcomes()
    executor.submit(outcomes.work(tiny(fastest_us)))
    assert outcomes.next()[1] != threading.get_ident()


def test_a_model_that_waits_for_fuller_batches_is_left_to_the_workers(executor: Executor, clock: Clock) -> None:
    outcomes, model = Outcomes(), tiny()
    model.max_delay_s = 1e-3
    executor.submit(outcomes.work(model))
    clock.now_s += 1e-3
    assert outcomes.next()[1] != threading.get_ident()


def test_other_threads_and_executors_without_drains_use_workers(executor: Executor) -> None:
    outcomes = Outcomes()
    other = threading.Thread(target=lambda: executor.submit(outcomes.work(tiny())))
    other.start()
    other.join()
    assert outcomes.next()[1] not in (threading.get_ident(), other.ident)
    undrained = Executor("cpu", Metrics())
    undrained.submit(outcomes.work(tiny()))
    assert outcomes.next()[1] != threading.get_ident()
    undrained.stop(TIMEOUT_S)


def test_what_exceeds_the_budget_of_a_drain_waits_for_the_next(executor: Executor, clock: Clock) -> None:
    def take_long(_: object) -> None:
        clock.now_s += DRAIN_US * 1e-6

    model, outcomes = tiny(trouble=take_long), Outcomes()
    for number in range(5):  # four fit a run
        executor.submit(outcomes.work(model, number))
    assert executor.drained() is True
    assert [outcomes.next()[0] for _ in range(4)] == [0, 1, 2, 3]
    assert executor.in_flight() == 1
    assert executor.drained() is False
    assert outcomes.next()[:2] == (4, threading.get_ident())


def computing_for(seconds: float) -> Callable[[object], None]:
    def compute(_: object) -> None:
        until_s = time.thread_time() + seconds
        while time.thread_time() < until_s:
            pass

    return compute


def test_a_model_that_turns_out_slow_is_run_by_workers_for_a_while(executor: Executor, clock: Clock) -> None:
    model, outcomes = tiny(trouble=computing_for(0.015)), Outcomes()
    executor.submit(outcomes.work(model))
    executor.drained()
    assert outcomes.next()[1] == threading.get_ident()
    executor.submit(outcomes.work(model))
    assert outcomes.next()[1] != threading.get_ident()
    executor.submit(outcomes.work(tiny()))  # another model
    clock.now_s += 100
    executor.submit(outcomes.work(model))
    assert outcomes.queue.empty()
    executor.drained()
    assert [outcomes.next()[1] for _ in range(2)] == [threading.get_ident()] * 2


def test_one_run_that_the_machine_disturbed_is_no_habit(executor: Executor, clock: Clock) -> None:
    model, outcomes = tiny(trouble=computing_for(0.0015)), Outcomes()
    threads = []
    for _ in range(20):
        executor.submit(outcomes.work(model))
        executor.drained()
        threads.append(outcomes.next()[1])
    assert threads[:3] == [threading.get_ident()] * 3
    assert threads[-1] != threading.get_ident()  # as often as that it is one


def test_the_cancelled_and_the_expired_are_dropped_at_the_drain(executor: Executor, clock: Clock) -> None:
    model, outcomes = tiny(), Outcomes()
    cancelled, expired = outcomes.work(model, 1), outcomes.work(model, 2, deadline_s=clock.now_s + 1)
    for work in (cancelled, expired, outcomes.work(model, 3)):
        executor.submit(work)
    cancelled.cancel()
    clock.now_s += 2
    executor.drained()
    assert runs(model) == [1]
    assert [type(outcomes.next()[2]) for _ in range(3)] == [Cancelled, DeadlineExceeded, Execution]


def test_a_run_that_fails_leaves_the_thread_alive(executor: Executor) -> None:
    def explode(_: object) -> None:
        raise SystemExit(3)

    outcomes = Outcomes()
    executor.submit(outcomes.work(tiny(trouble=explode)))
    executor.drained()
    assert isinstance(outcomes.next()[2], ServingError)


def test_the_fastest_run_says_what_a_model_takes_undisturbed() -> None:
    profile = Profile()
    assert profile.fastest_us(1) is None
    for service_us in (30.0, 20.0, 5000.0):
        profile.observe(1, service_us)
    assert profile.fastest_us(1) == 20
    assert profile.fastest_us(4) == 80
    assert profile.predict_us(1) > 20  # type: ignore[operator]


def test_tiny_work_beyond_the_queues_limit_goes_to_the_queue_which_has_one(clock: Clock) -> None:
    executor, outcomes = Executor("cpu", Metrics(), limit=2, clock=clock), Outcomes()
    executor.drained()
    gate, started = threading.Event(), threading.Semaphore(0)
    model = tiny(gate=gate, started=started)
    gate.clear()
    try:
        for number in range(3):  # the third is a worker's
            executor.submit(outcomes.work(model, number))
        assert started.acquire(timeout=TIMEOUT_S)
        for number in (3, 4):
            executor.submit(outcomes.work(model, number))
        with pytest.raises(Overloaded):
            executor.submit(outcomes.work(model, 5))
    finally:
        gate.set()
        executor.stop(TIMEOUT_S)


def test_tiny_work_is_not_predicted_to_wait_for_a_queue_that_it_will_not_be_in(executor: Executor) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)
    long, short, outcomes = tiny(fastest_us=5000, gate=gate, started=started), tiny(), Outcomes()
    gate.clear()
    try:
        executor.submit(outcomes.work(long))
        assert started.acquire(timeout=TIMEOUT_S)
        waits, is_tiny = executor.forecast(long, "k", 1), executor.forecast(short, "k", 1)
        assert waits is not None
        assert waits.wait_us > 0
        assert is_tiny is not None
        assert is_tiny.wait_us == 0
    finally:
        gate.set()
