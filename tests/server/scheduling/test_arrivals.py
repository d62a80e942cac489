"""Recent arrivals at a device: rate, urgency and slack."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.scheduling.arrivals import LOWEST_RANK, Arrivals


def per_s(arrivals: Arrivals, now_s: float, priority: int = 2) -> float:
    return sum(rate.per_s for rate in arrivals.recent(now_s, priority))


def test_the_rate_is_that_of_recent_arrivals() -> None:
    arrivals = Arrivals()
    assert per_s(arrivals, 0.0) == 0

    for number in range(500):
        arrivals.add(0.01 * number, 2, None)

    assert per_s(arrivals, 5.0) == pytest.approx(100, rel=0.02)
    assert per_s(arrivals, 15.0) < 0.01


def test_each_class_of_slack_has_its_own_rate() -> None:
    arrivals = Arrivals()
    for number in range(1000):
        arrivals.add(0.005 * number, 2, 0.05 if number % 10 == 0 else None)

    found = {rate.slack_us: rate.per_s for rate in arrivals.recent(5.0, 2)}
    assert found == {65_536: pytest.approx(20, rel=0.05), math.inf: pytest.approx(180, rel=0.05)}


@given(st.floats(-1, 1e4))
def test_slack_is_rounded_up_but_never_to_more_than_twice(slack_s: float) -> None:
    arrivals = Arrivals()
    arrivals.add(0.0, 1, slack_s)

    ((_, slack_us),) = arrivals.recent(0.0, 1)
    whole_us = max(0, int(slack_s * 1e6))
    assert whole_us < slack_us <= max(1, 2 * whole_us)


def test_less_urgent_arrivals_do_not_count() -> None:
    arrivals = Arrivals()
    for priority in (1, 2, 2, 3):
        arrivals.add(0.0, priority, None)

    assert [round(per_s(arrivals, 0.0, priority)) for priority in (0, 1, 2, 3)] == [0, 1, 3, 4]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e9)), max_size=50))
def test_the_number_of_classes_is_bounded_and_no_arrival_is_lost(added: list[tuple[int, float]]) -> None:
    arrivals = Arrivals()
    for priority, slack_s in added:
        arrivals.add(0.0, priority, slack_s)

    assert len(arrivals.recent(0.0, 10**6)) <= LOWEST_RANK * 51
    assert per_s(arrivals, 0.0, 10**6) == pytest.approx(len(added))
