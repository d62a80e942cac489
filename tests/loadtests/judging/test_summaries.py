import pytest
from turnout_loadtests.judging.cells import INVALID, LIMITED, VALID
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.sending.load import OFFLINE, SINGLE_STREAM

from tests.loadtests.made import Behaviour, World


def summary(behaviour: Behaviour, scenario: str = SINGLE_STREAM, **world: object) -> Summary:
    found = World({"cpu": behaviour}, **world).results().summaries  # type: ignore[arg-type]
    return next(each for each in found if each.key.scenario == scenario)


def test_a_summary_has_the_answers_of_all_rounds() -> None:
    found = summary(Behaviour(ms=10.0), rounds=6, window_s=4.0)
    assert (found.state, found.rounds, found.usable) == (VALID, 6, 6)
    assert found.answers == pytest.approx(6 * 400, rel=0.02)
    assert found.latency.p99_ms is not None  # which one round of 400 answers doesn't have
    assert len(found.rates) == len(found.p50s) == len(found.p99s) == 6


def test_the_rate_has_an_interval_over_the_rounds() -> None:
    found = summary(Behaviour(ms=10.0, drift=0.05), OFFLINE)
    assert found.rate is not None
    assert found.rate_low is not None
    assert found.rate_high is not None
    assert found.rate_low < found.rate < found.rate_high
    assert found.rate == pytest.approx(200, rel=0.1)


def test_an_experiment_without_valid_rounds_is_invalid_and_has_no_numbers() -> None:
    found = summary(Behaviour(fails_share=0.5))
    assert (found.state, found.usable, found.rate, found.latency.p50_ms) == (INVALID, 0, None, None)
    assert found.failures > 0
    assert "requests failed" in found.reasons[0]


def test_one_limited_round_limits_the_whole() -> None:
    assert summary(Behaviour(ms=1.0, client_ms=0.9, client_cpu=0.95)).state == LIMITED


def test_the_curve_of_the_distribution_ends_where_the_answers_do() -> None:
    curve = summary(Behaviour(), rounds=2, window_s=1.0).curve
    quantiles, times_ms = zip(*curve, strict=True)
    assert quantiles[-1] < 0.999  # 200 answers say nothing of one in a thousand
    assert list(times_ms) == sorted(times_ms)
