"""What happened between two answers of /status."""

import pytest
from turnout_server.cli.top.rates import Rates, quantile, rates_of, use_of

from tests.server.cli.top.statuses import BOUNDS_MS, device, entry, model, status


def test_rates_are_differences_by_the_time_between_the_answers() -> None:
    before = status(10, model(entry(counts=(10, 0, 0, 0))))
    after = status(12, model(entry(counts=(10, 6, 0, 0), run_rows=34)))
    own = rates_of(before, after)["m", "1", "cpu"]
    assert (own.requests_per_s, own.rows_per_run, own.latency_counts) == (3, 4, (0, 6, 0, 0))


def test_a_model_that_was_reloaded_counts_from_its_start() -> None:
    before = status(10, model(entry(counts=(100, 0, 0, 0))))
    after = status(12, model(entry(counts=(4, 0, 0, 0))))
    assert rates_of(before, after)["m", "1", "cpu"].requests_per_s == 2


def test_a_model_that_was_not_there_before_counts_from_its_start() -> None:
    after = status(12, model(entry(counts=(4, 0, 0, 0))))
    assert rates_of(status(10), after)["m", "1", "cpu"].answered == 4


def test_one_answer_alone_shows_no_rate() -> None:
    only = status(10, model(entry(counts=(4, 0, 0, 0))))
    rates = rates_of(only, only)
    assert rates["m", "1", "cpu"].requests_per_s is None
    assert use_of(device(), rates) is None


def test_the_use_of_a_device_is_that_of_all_models_by_its_instances() -> None:
    before = status(0, model(entry(), entry("cuda:0")), model(entry(), name="n"))
    after = status(
        10, model(entry(busy_s=4.0), entry("cuda:0", busy_s=9.0)), model(entry(busy_s=1.0), name="n"), devices=(device(),)
    )
    rates = rates_of(before, after)
    assert use_of(device(instances=1), rates) == 0.5
    assert use_of(device(instances=2), rates) == 0.25
    assert use_of(device("cpu:idle"), rates) is None


def test_a_device_is_never_used_more_than_all_the_time() -> None:
    rates = {("m", "1", "cpu"): Rates(span_s=1.0, busy_s=1.2)}
    assert use_of(device(), rates) == 1


@pytest.mark.parametrize(
    ("share", "counts", "value"),
    [
        (0.5, (4, 0, 0, 0), 0.5),
        (0.5, (0, 4, 0, 0), 5.5),
        (0.99, (99, 1, 0, 0), 1.0),
        (1.0, (1, 0, 1, 0), 100.0),
        (0.5, (0, 0, 0, 7), 100.0),  # above the last bound
        (0.5, (0, 0, 0, 0), None),
        (0.5, (), None),
    ],
)
def test_a_quantile_is_interpolated_in_its_bucket(share: float, counts: tuple[int, ...], value: float | None) -> None:
    assert quantile(share, BOUNDS_MS, counts) == (value if value is None else pytest.approx(value))
