from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnout_loadtests.judging.search import (
    LEAST_REQUESTS,
    MAX_TRIALS,
    RESOLUTION,
    Trial,
    capacity_of,
    kept,
    misses_allowed,
    next_rate,
    start_rate,
    trial_length_s,
)  # fmt: skip
from turnout_loadtests.sending.load import OPEN

from tests.loadtests.made import QUIET, Behaviour, cell


def searched(keeps: Callable[[float], bool | None], start_per_s: float) -> list[Trial]:
    trials: list[Trial] = []
    while (rate := next_rate(trials, start_per_s)) is not None:
        trials.append(Trial(rate, keeps(rate)))
        assert len(trials) <= MAX_TRIALS
    return trials


@given(st.floats(1.0, 5000.0), st.floats(0.04, 1.0))
@settings(max_examples=60)
def test_the_search_finds_the_capacity_to_five_percent(capacity: float, share: float) -> None:
    start = share * capacity
    found = capacity_of("m", "cpu", 1, 50.0, searched(lambda rate: rate <= capacity, start))
    assert found.per_s is not None
    assert found.per_s <= capacity
    if start > capacity / 32:  # within the trials there are
        assert found.per_s >= capacity / (1 + RESOLUTION) * 0.999
        assert found.beyond_per_s is not None
        assert found.reason == ""


def test_a_rate_counts_once_it_was_kept_twice() -> None:
    trials = searched(lambda rate: rate <= 100, 40.0)
    best = max(trial.rate_per_s for trial in trials if trial.kept)
    assert sum(trial.rate_per_s == best for trial in trials) == 2


@pytest.mark.parametrize("start", [0.1, 40.0])
def test_a_device_that_kept_no_rate_has_no_capacity_but_a_bound(start: float) -> None:
    """Not 0: the least rate that was tried may be more than the device carries."""
    found = capacity_of("m", "cpu", 1, 50.0, searched(lambda _: False, start))
    assert found.per_s is None
    assert found.beyond_per_s == pytest.approx(start / 32)
    assert "was missed; a lower one may be kept" in found.reason


def test_a_search_whose_trials_tell_nothing_ends_without_a_number() -> None:
    trials = searched(lambda _: None, 40.0)
    assert len(trials) == 2
    assert capacity_of("m", "cpu", 1, 50.0, trials).per_s is None


def test_a_trial_keeps_the_target_by_the_bound_of_its_p99() -> None:
    shown: dict[str, Any] = {"arrival": OPEN, "rate_per_s": 200.0, "in_flight": 64, "duration_s": 5.0}
    calm = cell(Behaviour(ms=10.0, scatter=0.05), **shown)
    assert kept(calm, 50.0).kept is True
    assert kept(calm, 9.0).kept is False
    tailed = cell(Behaviour(ms=10.0, slow_share=0.02, slow_ms=80.0), **shown)
    assert kept(tailed, 50.0).kept is False
    assert kept(cell(Behaviour(fails_share=0.3), **shown), 50.0).kept is None  # invalid says nothing
    assert kept(cell(Behaviour(), **{**shown, "duration_s": 1.0}), 50.0).kept is None  # 200 answers are no p99


def test_a_miss_counts_only_if_it_is_the_devices() -> None:
    shown: dict[str, Any] = {"arrival": OPEN, "rate_per_s": 200.0, "in_flight": 64, "duration_s": 5.0}
    slow = Behaviour(ms=100.0)
    assert kept(cell(slow, **shown), 50.0).kept is False
    for other_work in (30.0, 80.0):  # limited and invalid
        disturbed = replace(slow, machine=replace(QUIET, other_work_percent=other_work))
        assert kept(cell(disturbed, **shown), 50.0).kept is None
        assert kept(replace(cell(disturbed, **shown), stopped_early=True), 50.0).kept is None
    assert kept(cell(replace(slow, answers_as="other"), **shown), 50.0).kept is None
    fast = Behaviour(ms=5.0, machine=replace(QUIET, other_work_percent=30.0))
    assert kept(cell(fast, **shown), 50.0).kept is True  # kept although others took cores


def test_drops_count_as_a_miss_only_where_nothing_held_the_device_back() -> None:
    shown: dict[str, Any] = {"arrival": OPEN, "rate_per_s": 300.0, "in_flight": 64, "duration_s": 5.0}
    slow = Behaviour(ms=10.0, queues=True)
    assert kept(cell(slow, **shown), 5000.0).kept is False
    assert kept(cell(replace(slow, machine=replace(QUIET, other_work_percent=30.0)), **shown), 5000.0).kept is None


@pytest.mark.parametrize(("rate", "length_s"), [(1000.0, 5.0), (66.2, 10.0), (10.0, 60.0), (5.0, None)])
def test_a_trial_lasts_until_a_p99_can_be_told_or_is_left_out(rate: float, length_s: float | None) -> None:
    found = trial_length_s(rate, 5.0, 60.0)
    assert found == (pytest.approx(length_s) if length_s else None)
    assert found is None or rate * found >= LEAST_REQUESTS


def test_the_search_starts_where_a_p99_can_be_told() -> None:
    assert start_rate(0.001, 60.0) == 250.0
    slow = start_rate(2.0, 60.0)
    assert trial_length_s(slow, 5.0, 60.0) == pytest.approx(60.0)


def test_a_trial_may_miss_as_often_as_its_p99_allows() -> None:
    assert misses_allowed(1000.0, 10.0) > 50  # about 1 in 100 of ten thousand, less what chance may hide
    assert misses_allowed(1.0, 5.0) == 0
