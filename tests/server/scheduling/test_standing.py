"""A queue stands if every wait has been long for an interval and requests were refused; a burst doesn't make it stand."""

from collections.abc import Iterable

import pytest
from turnout_server.scheduling.standing import CALM_S, INTERVAL_S, StandingQueue, limit_us

LIMIT_US = 200_000.0


def after(waits: Iterable[tuple[float, float, bool]]) -> StandingQueue:
    """A queue that has seen requests: when each came, how long it would have waited in us, and whether it was refused."""
    queue = StandingQueue()
    for now_s, wait_us, refused in waits:
        queue.observe(now_s, wait_us, LIMIT_US, refused=refused)
    return queue


def overload(until_s: float) -> list[tuple[float, float, bool]]:
    """A hundred requests a second that would all wait for a second, each other one refused."""
    return [(number / 100, 1e6, number % 2 == 0) for number in range(int(until_s * 100))]


def test_a_queue_that_is_long_for_an_interval_while_requests_are_refused_stands() -> None:
    assert not after(overload(INTERVAL_S)).stands
    assert after(overload(INTERVAL_S + 0.1)).stands


def test_a_queue_that_is_long_while_nobody_is_refused_does_not() -> None:
    assert not after((now_s, wait_us, False) for now_s, wait_us, _ in overload(10)).stands


def test_one_short_wait_shows_that_it_was_a_burst() -> None:
    seen = overload(3)
    for second in (0, 1, 2):
        seen[second * 100 + 50] = (second + 0.5, LIMIT_US, True)
    assert not after(seen).stands


@pytest.mark.parametrize(
    ("wait_us", "later_s", "stands"), [(0.0, CALM_S * 1.1, False), (0.0, CALM_S / 2, True), (1.0, 9, True)]
)
def test_it_ends_when_nobody_waits_and_nobody_was_refused_for_a_while(wait_us: float, later_s: float, stands: bool) -> None:
    queue = after(overload(2))
    queue.observe(1.98 + later_s, wait_us, LIMIT_US, refused=False)
    assert queue.stands is stands


def test_a_request_may_wait_for_a_share_of_its_time_or_for_one_run() -> None:
    assert limit_us(1_000_000, 10_000) == 200_000
    assert limit_us(1_000_000, 400_000) == 400_000
