import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.scheduling.profiles import SETTLED_RUNS, SMOOTHING, Profile

TIMES = st.floats(1, 1e6)


def profile(measured: dict[int, float]) -> Profile:
    made = Profile()
    for rows, service_us in measured.items():
        made.observe(rows, service_us)
    return made


def test_nothing_is_predicted_before_the_first_run() -> None:
    assert Profile().predict_us(1) is None


@given(st.dictionaries(st.integers(1, 64), TIMES, min_size=1), st.integers(0, 200))
def test_a_prediction_lies_between_its_measured_neighbours(measured: dict[int, float], rows: int) -> None:
    predicted = profile(measured).predict_us(rows)
    assert predicted is not None
    below = [size for size in measured if size <= rows]
    above = [size for size in measured if size >= rows]
    if below and above:
        ends = measured[max(below)], measured[min(above)]
        assert min(ends) * (1 - 1e-9) <= predicted <= max(ends) * (1 + 1e-9)
    elif below:
        assert predicted == pytest.approx(measured[max(below)] * rows / max(below))
    else:
        assert predicted == measured[min(above)]


@given(st.dictionaries(st.integers(1, 64), TIMES, min_size=1))
def test_a_measured_size_is_predicted_as_measured(measured: dict[int, float]) -> None:
    made = profile(measured)
    for rows, service_us in measured.items():
        assert made.predict_us(rows) == pytest.approx(service_us)


@given(TIMES, st.lists(TIMES, max_size=20))
def test_an_outlier_moves_the_estimate_by_a_limited_amount(first: float, others: list[float]) -> None:
    made = profile({1: first})
    for service_us in others:
        before = made.predict_us(1)
        made.observe(1, service_us)
        after = made.predict_us(1)
        assert before is not None
        assert after is not None
        assert after - before <= SMOOTHING * 2 * before * (1 + 1e-9)


def test_the_estimate_follows_a_lasting_change() -> None:
    made = profile({1: 100})
    for _ in range(200):
        made.observe(1, 1000)
    assert made.predict_us(1) == pytest.approx(1000, rel=0.01)


@given(st.dictionaries(st.integers(1, 64), TIMES, min_size=1), st.integers(0, 200))
def test_the_fastest_run_is_never_slower_than_the_expected_one(measured: dict[int, float], rows: int) -> None:
    made = profile(measured)
    for size, service_us in measured.items():
        made.observe(size, 2 * service_us)
    fastest, expected = made.fastest_us(rows), made.predict_us(rows)
    assert fastest is not None
    assert expected is not None
    assert fastest <= expected * (1 + 1e-9)


def test_only_sizes_that_ran_often_enough_are_settled() -> None:
    made = Profile()
    for run in range(SETTLED_RUNS):
        assert (made.settled_us(2), made.settled_us(1), made.total_runs) == (None, None, run)
        made.observe(2, 100)
    assert (made.settled_us(2), made.settled_us(1)) == (100, None)


def test_a_measurement_replaces_the_estimate() -> None:
    made = profile({1: 10_000})
    made.measure(1, [100, 120, 5000])
    assert (made.predict_us(1), made.fastest_us(1), made.runs(1)) == (120, 100, 3)


def test_the_likely_time_is_two_spreads_above_the_expected_time() -> None:
    made = Profile()
    made.measure(1, [90, 100, 110])
    made.measure(3, [300] * 3)
    assert [made.likely_us(rows) for rows in (1, 2, 3)] == [120, 210, 300]
    assert Profile().likely_us(1) is None
