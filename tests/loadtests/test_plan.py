from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.plan import (
    MAX_IN_FLIGHT,
    MAX_ROWS_IN_FLIGHT,
    PROFILES,
    Experiment,
    Request,
    duration_s,
    estimate_s,
    experiments,
    filling,
    in_turn,
    next_in_flight,
    open_limit,
    rounds_of,
    stated,
    window_s,
)  # fmt: skip
from turnout_loadtests.sending.load import OFFLINE, SERVER, SINGLE_STREAM

REQUEST = Request(("a",), ("cpu", "cuda"), PROFILES["quick"], loads_per_s=(100.0,))


def test_devices_alternate_so_that_drift_affects_all_alike() -> None:
    assert list(in_turn(["a", "b"], 4)) == [
        (1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b"), (4, "b"), (4, "a"),
    ]  # fmt: skip


def test_a_comparison_measures_one_stream_each_batch_and_each_load() -> None:
    assert experiments(replace(REQUEST, batches=(8, 1, 8))) == [
        Experiment(1, single=True), Experiment(1), Experiment(8), Experiment(1, rate_per_s=100.0),
    ]  # fmt: skip


@pytest.mark.parametrize("saturated_at", [1, 2, 4, 16, 100])
@pytest.mark.parametrize("batch", [1, 32])
def test_requests_in_flight_are_doubled_while_that_brings_more(saturated_at: int, batch: int) -> None:
    rates: list[tuple[int, float]] = []
    while (in_flight := next_in_flight(rates, batch)) is not None:
        rates.append((in_flight, 10.0 * min(in_flight, saturated_at)))
    tried = [in_flight for in_flight, _ in rates]
    assert tried[:2] == [2, 4][: len(tried)]
    assert tried[-1] <= MAX_IN_FLIGHT
    assert tried[-1] * batch <= max(MAX_ROWS_IN_FLIGHT, 4 * batch)
    assert min(filling(rates), saturated_at) == pytest.approx(min(saturated_at, tried[-1]), rel=0.6)


@given(st.floats(1e-4, 100.0), st.integers(1, 256))
def test_a_window_is_as_long_as_its_answers_need_within_the_limit(latency_s: float, in_flight: int) -> None:
    profile = PROFILES["standard"]
    assert profile.window_s <= window_s(profile, in_flight, latency_s) <= profile.longest_s


def test_a_single_device_has_half_the_rounds() -> None:
    for profile in PROFILES.values():
        assert 2 * rounds_of(profile, 1) == rounds_of(profile, 2) == profile.rounds
    assert rounds_of(PROFILES["standard"], 1) == 3


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("rounds", [1, 3, 6])
def test_rounds_that_were_stated_are_measured_however_many_devices_there_are(rounds: int, devices: int) -> None:
    assert rounds_of(stated(PROFILES["quick"], rounds, None), devices) == rounds


@pytest.mark.parametrize("window", [0.6, 20.0, 60.0, 300.0])
@pytest.mark.parametrize("experiment", [Experiment(1, single=True), Experiment(1), Experiment(1, rate_per_s=1000.0)])
def test_a_window_that_was_stated_is_never_cut(window: float, experiment: Experiment) -> None:
    asked = replace(REQUEST, profile=stated(PROFILES["quick"], None, window))
    assert duration_s(asked, experiment, 2, 0.001) == window
    assert window <= duration_s(asked, experiment, 2, 10.0) <= max(window, PROFILES["quick"].longest_s)


def test_what_was_not_stated_is_the_profiles() -> None:
    assert stated(PROFILES["thorough"], None, None) == PROFILES["thorough"]
    assert stated(PROFILES["thorough"], 5, None).window_s == PROFILES["thorough"].window_s


def test_experiments_have_the_names_of_mlperf() -> None:
    assert [each.scenario for each in experiments(REQUEST)] == [SINGLE_STREAM, OFFLINE, OFFLINE, SERVER]


def test_quick_takes_about_three_minutes_for_a_small_model_on_two_devices() -> None:
    small = [[{1: 0.002, 8: 0.004}] * 2]
    least_s, most_s = estimate_s(replace(REQUEST, loads_per_s=()), small)
    assert 100 < least_s < 200
    assert least_s < most_s < 1.5 * least_s
    assert estimate_s(replace(REQUEST, profile=PROFILES["standard"], loads_per_s=()), small)[0] > 2 * least_s


def test_a_slow_model_is_expected_to_take_as_long_as_its_windows() -> None:
    slow = {1: 0.1, 8: 0.5}
    windows_s = 60 * 0.1 + 60 * 0.1 + PROFILES["quick"].longest_s
    least_s, _ = estimate_s(replace(REQUEST, loads_per_s=()), [[slow, slow]])
    assert least_s == pytest.approx(2 * 4 * windows_s, rel=0.35)
    assert estimate_s(replace(REQUEST, loads_per_s=()), [[slow]])[0] < least_s / 3


def test_a_model_that_nothing_can_run_takes_no_time() -> None:
    assert estimate_s(REQUEST, [[], []]) == estimate_s(REQUEST, [])


def test_a_profile_says_what_it_cannot_say() -> None:
    assert "without a search" in PROFILES["quick"].says_not
    assert not PROFILES["standard"].says_not


@pytest.mark.parametrize(
    ("rate", "target_ms", "most"), [(10.0, None, 64), (300.0, None, 600), (300.0, 50.0, 600), (300.0, 10_000.0, 6000)]
)
def test_a_device_that_keeps_a_long_target_needs_no_drops(rate: float, target_ms: float | None, most: int) -> None:
    assert open_limit(rate, target_ms) == most
