import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.statistics import median, minimum_samples, nearest_rank, per_second, percentile

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=700)


@pytest.mark.parametrize(("quantile", "samples"), [(0.5, 7), (0.9, 44), (0.95, 90), (0.99, 459), (0.999, 4603)])
def test_a_percentile_needs_enough_samples_for_one_to_lie_above_it(quantile: float, samples: int) -> None:
    assert minimum_samples(quantile) == samples
    assert quantile**samples <= 0.01 < quantile ** (samples - 1)


def test_one_sample_fewer_gives_no_percentile() -> None:
    assert percentile(np.arange(458.0), 0.99) is None
    assert percentile(np.arange(459.0), 0.99) == 454


@given(TIMES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_is_a_measured_value_that_so_many_values_do_not_exceed(values: list[float], quantile: float) -> None:
    found = percentile(np.array(values), quantile)
    if len(values) < minimum_samples(quantile):
        assert found is None
    else:
        assert found in values
        share = sum(value <= found for value in values) / len(values)
        assert share >= quantile - 1e-9
        assert sum(value < found for value in values) / len(values) < quantile


@given(TIMES)
def test_percentiles_rise_with_the_quantile(values: list[float]) -> None:
    found = [percentile(np.array(values), quantile) for quantile in (0.5, 0.9, 0.95, 0.99)]
    known = [value for value in found if value is not None]
    assert known == sorted(known)


def test_there_is_no_median_of_no_values_and_the_rate_of_no_time_is_zero() -> None:
    assert median(np.array([])) is None
    assert median(np.array([3, 1])) == 2
    assert per_second(5, 0.0) == 0
    assert per_second(5, 2.0) == 2.5


@given(TIMES, st.sampled_from([0.5, 0.99]))
def test_the_nearest_rank_is_a_measured_value_and_equals_the_percentile(values: list[float], quantile: float) -> None:
    found = nearest_rank(values, quantile)
    assert found in values
    assert percentile(np.array(values), quantile) in {found, None}


def test_infinite_latencies_count_in_the_nearest_rank() -> None:
    assert nearest_rank([2.0, np.inf, 1.0, 3.0], 0.5) == 2.0
    assert nearest_rank([2.0, np.inf, 1.0, 3.0], 0.99) == np.inf
