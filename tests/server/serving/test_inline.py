"""Jobs that are too short for another thread run in the thread that received them, batched."""

import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import Cancelled, DeadlineExceeded, ServingError, Unavailable
from turnout_server.core.metrics import Metrics
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling.profiles import Profile
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.inline import INLINE_BUDGET_US, INLINE_US, InlineRunner
from turnout_server.serving.job import Execution, Job

from tests.server.fakes import AddingSession, Clock, deployment, profile

TIMEOUT_S = 10.0
Outcome = tuple[int, Execution | ServingError]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inline(clock: Clock) -> InlineRunner:
    """An inline runner of the test's thread."""
    return InlineRunner({"cpu": BatchRunner("cpu", Metrics(), clock)}, clock=clock)


def short(fastest_us: float | None = 10, **session: Any) -> Deployment:
    """A model whose runs take `fastest_us`, with up to four rows per batch."""
    measured_us = {} if fastest_us is None else {1: fastest_us, 4: fastest_us}
    return deployment(AddingSession(**session), max_rows=4, profile=profile(measured_us))


class Outcomes:
    """The outcome of each job, in order, with the thread that delivered it."""

    def __init__(self) -> None:
        self.queue: Queue[tuple[int, int, Execution | ServingError]] = Queue()

    def job(self, model: Deployment, number: int = 0, **options: float) -> Job:
        array = np.full((1, 2), number, np.float32)

        def done(outcome: Execution | ServingError) -> None:
            self.queue.put((number, threading.get_ident(), outcome))

        return Job(model, {"a": array, "b": array}, ("y",), 1, "k", done, options.get("start_by_s"))

    def next(self) -> tuple[int, int, Execution | ServingError]:
        return self.queue.get(timeout=TIMEOUT_S)


def runs(model: Deployment) -> list[int]:
    """The rows of each run of the model's session."""
    assert isinstance(model.session, AddingSession)
    return model.session.runs


def submit(inline: InlineRunner, job: Job) -> None:
    assert inline.accepts(job.tenant, job.rows)
    inline.submit(job)


def test_short_jobs_wait_for_the_next_call_of_run_and_are_batched_there(inline: InlineRunner) -> None:
    model, outcomes = short(), Outcomes()
    for number in range(3):
        submit(inline, outcomes.job(model, number))
    assert (runs(model), inline.waiting("cpu"), inline.waiting("cuda:0")) == ([], 3, 0)
    assert inline.run() is False
    assert (runs(model), inline.waiting("cpu")) == ([3], 0)
    for number in range(3):
        got, thread, outcome = outcomes.next()
        assert (got, thread) == (number, threading.get_ident())
        assert isinstance(outcome, Execution)
        assert outcome.outputs[0].tolist() == [[2 * number, 2 * number]]


@pytest.mark.parametrize("fastest_us", [None, INLINE_US, 1e6])
def test_longer_or_unknown_jobs_are_not_accepted(inline: InlineRunner, fastest_us: float | None) -> None:
    assert not inline.accepts(short(fastest_us), 1)


def test_a_model_that_waits_for_fuller_batches_is_not_accepted(inline: InlineRunner) -> None:
    model = short()
    model.max_delay_s = 1e-3
    assert not inline.accepts(model, 1)


def test_jobs_for_a_device_in_another_process_are_not_accepted(inline: InlineRunner) -> None:
    assert not inline.accepts(deployment(device="cuda:0", profile=profile({1: 10})), 1)


def test_no_more_jobs_than_the_limit_are_accepted(clock: Clock) -> None:
    inline, model, outcomes = InlineRunner({"cpu": BatchRunner("cpu", Metrics())}, limit=2, clock=clock), short(), Outcomes()
    for number in range(2):
        submit(inline, outcomes.job(model, number))
    assert not inline.accepts(model, 1)
    inline.run()
    assert inline.accepts(model, 1)


def test_jobs_beyond_the_time_budget_wait_for_the_next_call(inline: InlineRunner, clock: Clock) -> None:
    def take_long(_: object) -> None:
        clock.now_s += INLINE_BUDGET_US * 1e-6

    model, outcomes = short(trouble=take_long), Outcomes()
    for number in range(5):  # four fit in a batch
        submit(inline, outcomes.job(model, number))
    assert inline.run() is True
    assert [outcomes.next()[0] for _ in range(4)] == [0, 1, 2, 3]
    assert inline.waiting("cpu") == 1
    assert inline.run() is False
    assert outcomes.next()[:2] == (4, threading.get_ident())


def computing_for(seconds: float) -> Callable[[object], None]:
    def compute(_: object) -> None:
        until_s = time.thread_time() + seconds
        while time.thread_time() < until_s:
            pass

    return compute


def test_a_model_that_turns_out_slow_is_not_accepted_for_a_while(inline: InlineRunner, clock: Clock) -> None:
    model, outcomes = short(trouble=computing_for(0.015)), Outcomes()
    submit(inline, outcomes.job(model))
    inline.run()
    assert outcomes.next()[1] == threading.get_ident()
    assert not inline.accepts(model, 1)
    assert inline.accepts(short(), 1)  # another model
    clock.now_s += 100
    assert inline.accepts(model, 1)


def test_a_single_slow_run_does_not_exclude_a_model(inline: InlineRunner) -> None:
    model, outcomes = short(trouble=computing_for(0.0015)), Outcomes()
    accepted = []
    for _ in range(20):
        accepted.append(inline.accepts(model, 1))
        inline.submit(outcomes.job(model))
        inline.run()
    assert accepted[:3] == [True] * 3
    assert accepted[-1] is False  # repeated slow runs are a pattern


def test_cancelled_and_expired_jobs_are_dropped_and_not_run(inline: InlineRunner, clock: Clock) -> None:
    model, outcomes = short(), Outcomes()
    cancelled, expired = outcomes.job(model, 1), outcomes.job(model, 2, start_by_s=clock.now_s + 1)
    for job in (cancelled, expired, outcomes.job(model, 3)):
        submit(inline, job)
    cancelled.cancel()
    clock.now_s += 2
    inline.run()
    assert runs(model) == [1]
    assert [type(outcomes.next()[2]) for _ in range(3)] == [Cancelled, DeadlineExceeded, Execution]


def test_a_run_that_fails_leaves_the_thread_alive(inline: InlineRunner) -> None:
    def explode(_: object) -> None:
        raise SystemExit(3)

    outcomes = Outcomes()
    submit(inline, outcomes.job(short(trouble=explode)))
    inline.run()
    assert isinstance(outcomes.next()[2], ServingError)


def test_jobs_left_at_the_stop_are_answered(inline: InlineRunner) -> None:
    outcomes = Outcomes()
    submit(inline, outcomes.job(short()))
    inline.stop()
    assert isinstance(outcomes.next()[2], Unavailable)
    assert inline.run() is False


def test_the_fastest_run_counts_and_not_disturbed_ones() -> None:
    profile = Profile()
    assert profile.fastest_us(1) is None
    for service_us in (30.0, 20.0, 5000.0):
        profile.observe(1, service_us)
    assert profile.fastest_us(1) == 20
    assert profile.fastest_us(4) == 80
    assert profile.predict_us(1) > 20  # type: ignore[operator]
