import threading
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue

import numpy as np
import pytest
from turnout_server.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    Overloaded,
    ServingError,
    Unavailable,
)
from turnout_server.scheduler import Execution, Executor, Work

from tests.server.fakes import AddingSession, Clock


class Desk:
    """An executor, its session and clock, and the outcomes in the order in which they came."""

    def __init__(self, instances: int = 1, limit: int = 100) -> None:
        self.session = AddingSession()
        self.clock = Clock()
        self.executor = Executor("cpu", instances, limit, self.clock)
        self.outcomes: SimpleQueue[tuple[int, Execution | ServingError]] = SimpleQueue()

    def submit(
        self, value: int, rows: int = 1, max_rows: int = 8, deadline_s: float | None = None, max_waiting: int = 0
    ) -> Work:
        """Sends in `rows` rows that all add up to `2 * value`."""
        array = np.full((rows, 2), value, np.float32)

        def done(outcome: Execution | ServingError) -> None:
            self.outcomes.put((value, outcome))

        work = Work(self.session, {"a": array, "b": array}, ("y",), rows, max_rows, deadline_s, done, None, max_waiting)
        self.executor.submit(work)
        return work

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

    def make(**arguments: int) -> Desk:
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


def test_what_waits_for_a_busy_worker_runs_together(desk: Desk) -> None:
    desk.hold()
    for value in (1, 2, 3):
        desk.submit(value, rows=value)
    desk.release()
    for value, outcome in desk.take(4).items():
        assert_answered(outcome, value, rows=max(1, value))
    assert desk.session.runs == [1, 6]


def test_an_execution_tells_rows_times_and_its_run(desk: Desk) -> None:
    desk.hold()
    desk.submit(1)
    desk.submit(2)
    desk.clock.now_s += 5
    desk.release()
    outcomes = desk.take(3)
    ran = [outcomes[1], outcomes[2]]
    assert [(o.batch_rows, o.queue_s, o.first) for o in ran if isinstance(o, Execution)] == [(2, 5, True), (2, 5, False)]


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
    desk.submit(1, deadline_s=desk.clock.now_s + 1)
    desk.submit(2, deadline_s=desk.clock.now_s + 3)
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
    desk.executor.submit(Work(desk.session, {"a": array, "b": array}, ("y",), 1, 8, None, broken))
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


def test_a_models_own_limit_is_refused_while_other_models_still_wait(make: Callable[..., Desk]) -> None:
    desk = make()
    desk.hold()
    desk.submit(1, max_waiting=1)
    with pytest.raises(Overloaded, match="Exceeds maximum queue size: 1 requests wait for this model on device 'cpu'"):
        desk.submit(2, max_waiting=1)
    desk.session, other = AddingSession(), desk.session
    desk.submit(3, max_waiting=1)
    other.gate.set()
    assert sorted(desk.take(3)) == [0, 1, 3]


def test_a_request_ends_exactly_once() -> None:
    outcomes: SimpleQueue[Execution | ServingError] = SimpleQueue()
    work = Work(AddingSession(), {"a": np.zeros((1, 2))}, ("y",), 1, 1, None, outcomes.put)
    barrier = threading.Barrier(8)
    won: SimpleQueue[bool] = SimpleQueue()

    def finish() -> None:
        barrier.wait(timeout=10)
        won.put(work.finish(Cancelled("raced")))

    threads = [threading.Thread(target=finish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won.get() for _ in threads) == [False] * 7 + [True]
    assert outcomes.qsize() == 1


def test_different_shapes_and_models_do_not_share_a_run(desk: Desk) -> None:
    desk.hold()
    desk.submit(1)
    wide = np.zeros((1, 3), np.float32)
    desk.executor.submit(
        Work(desk.session, {"a": wide, "b": wide}, ("y",), 1, 8, None, lambda outcome: desk.outcomes.put((9, outcome)))
    )
    desk.submit(2)
    desk.release()
    desk.take(4)
    assert desk.session.runs == [1, 2, 1]


def test_each_instance_runs_beside_the_others(make: Callable[..., Desk]) -> None:
    desk = make(instances=2)
    desk.hold()
    desk.submit(1)
    assert desk.session.started.acquire(timeout=10)  # while the first still runs
    assert desk.executor.in_flight() == 2
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
    assert desk.executor.in_flight() == 0


def test_stop_fails_what_it_has_no_time_for(desk: Desk) -> None:
    desk.hold()
    desk.submit(1)
    desk.executor.stop(timeout_s=0)
    assert isinstance(desk.take(1)[1], Unavailable)
    desk.release()
    assert_answered(desk.take(1)[0], 0)
