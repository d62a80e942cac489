"""Threads that poll, one of which gRPC keeps inside a poll."""

import threading
from collections.abc import Callable, Iterator

import pytest
from turnout_server.transport.polling_threads import PollingThreads

from tests.faulty import until

TIMEOUT_S = 20.0


class Rounds:
    """Rounds of which the first ones are stuck: they use a core until they are let go.

    Attributes:
        by: the names of the threads that ended a round.
    """

    def __init__(self, stuck: int = 0) -> None:
        self.let_go = threading.Event()
        self.ended = threading.Event()
        self.by: list[str] = []
        self._left = stuck

    def __call__(self, longest_s: float) -> None:
        if self._left > 0:
            self._left -= 1
            while not self.let_go.is_set():
                pass
        self.ended.wait(0.01)
        self.by.append(threading.current_thread().name)


@pytest.fixture
def looked() -> list[int]:
    return []


@pytest.fixture
def start(looked: list[int]) -> Iterator[Callable[[Rounds], PollingThreads]]:
    started: list[tuple[Rounds, PollingThreads]] = []

    def start(rounds: Rounds) -> PollingThreads:
        threads = PollingThreads(rounds, rounds.ended.is_set, lambda: looked.append(1))
        threads.start()
        started.append((rounds, threads))
        return threads

    yield start
    for rounds, threads in started:
        rounds.let_go.set()
        rounds.ended.set()
        threads.join(TIMEOUT_S)
        assert not threads.alive


def test_a_stand_in_polls_while_the_first_thread_is_stuck_and_ends_when_it_is_not(
    start: Callable[[Rounds], PollingThreads], caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds(stuck=1)
    start(rounds)
    until(lambda: len(rounds.by) > 5)
    assert set(rounds.by) == {"stand-in"}
    assert "another one takes its place" in caplog.text
    rounds.let_go.set()
    until(lambda: rounds.by[-3:] == ["transport"] * 3)
    until(lambda: "stand-in" not in {thread.name for thread in threading.enumerate()})


def test_a_stand_in_that_is_stuck_itself_gets_one(start: Callable[[Rounds], PollingThreads]) -> None:
    rounds = Rounds(stuck=2)
    start(rounds)
    until(lambda: len(rounds.by) > 5)
    assert sum(thread.name == "stand-in" for thread in threading.enumerate()) == 2


def test_a_thread_that_polls_or_waits_needs_no_stand_in(
    start: Callable[[Rounds], PollingThreads], looked: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds()
    start(rounds)
    until(lambda: len(looked) > 2)
    assert set(rounds.by) == {"transport"}
    assert caplog.text == ""


def test_a_wait_without_events_is_not_taken_for_work(looked: list[int], caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    def wait(longest_s: float) -> None:
        ended.wait(TIMEOUT_S)

    threads = PollingThreads(wait, ended.is_set, lambda: looked.append(1))
    threads.start()
    until(lambda: len(looked) > 3)
    ended.set()
    threads.join(TIMEOUT_S)
    assert (threads.alive, caplog.text) == (False, "")
