import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.statistics import Interval, median, minimum_samples, nearest_rank, pairs_needed, per_second, percentile

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


@pytest.mark.parametrize(
    ("ratios", "pairs", "needed"),
    [
        (Interval(1.0, 0.82, 1 / 0.82), 6, 100),  # of equal devices, too: their interval will lie within the margin
        (Interval(1.002, 0.82, 1.22), 6, 109),
        (Interval(1 / 1.002, 1 / 1.22, 1 / 0.82), 6, 109),
        (Interval(1.3, 1.0, 1.69), 6, 10),
        (Interval(1 / 1.3, 1 / 1.69, 1.0), 6, 10),
        (Interval(2.0, 1.9, 2.1), 6, 7),
        (Interval(1.05, 1.0, 1.1), 6, None),
    ],
)
def test_pairs_tell_whether_a_ratio_is_within_the_margin_or_beyond(ratios: Interval, pairs: int, needed: int | None) -> None:
    found = pairs_needed(ratios, pairs, 0.05)
    assert found == (needed if needed is None else pytest.approx(needed, abs=2))


@given(st.floats(0.5, 2.0), st.floats(1.01, 2.0))
def test_so_many_pairs_bring_the_interval_to_one_side_of_the_margin(ratio: float, reach: float) -> None:
    needed = pairs_needed(Interval(ratio, ratio / reach, ratio * reach), 6, 0.05)
    if needed is not None and needed < 1e6:
        low, high = (abs(math.log(ratio)) + sign * math.log(reach) * math.sqrt(6 / needed) for sign in (-1, 1))
        assert low >= math.log(1.05) - 1e-9 or high <= math.log(1.05) + 1e-9
