from dataclasses import replace

import pytest
from turnout_loadtests.judging.comparisons import (
    BETTER,
    LATENCY,
    SAME,
    TAIL,
    THROUGHPUT,
    UNDECIDED,
    WORSE,
    Comparison,
    by_latency,
    by_tail,
    by_throughput,
)  # fmt: skip
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.sending.load import OFFLINE, SINGLE_STREAM

from tests.loadtests.made import QUIET, Behaviour, World


def sides(one: Behaviour, other: Behaviour, scenario: str, **world: object) -> tuple[Summary, Summary]:
    made = World({"one": one, "other": other}, **world).results().summaries  # type: ignore[arg-type]
    found = {each.key.device: each for each in made if each.key.scenario == scenario}
    return found["one"], found["other"]


def throughput(one: Behaviour, other: Behaviour, **world: object) -> Comparison:
    return by_throughput(*sides(one, other, OFFLINE, **world))


@pytest.mark.parametrize("seed", range(40))
def test_two_equal_devices_are_never_told_apart(seed: int) -> None:
    equal = Behaviour(drift=0.05)  # each round is faster or slower by about 5 %, as on a shared machine
    offline = sides(equal, equal, OFFLINE, seed=seed, window_s=1.0)
    single = sides(equal, equal, SINGLE_STREAM, seed=seed, window_s=1.0)
    assert by_throughput(*offline).outcome in (SAME, UNDECIDED)
    assert by_latency(*single).outcome in (SAME, UNDECIDED)
    assert by_tail(*single).outcome in (SAME, UNDECIDED)


def test_a_device_that_is_twice_as_fast_is_better_both_ways() -> None:
    fast, slow = Behaviour(ms=5.0, drift=0.03), Behaviour(ms=10.0, drift=0.03)
    found = throughput(fast, slow)
    assert found.outcome == BETTER
    assert found.ratio == pytest.approx(2.0, rel=0.1)
    assert found.low is not None
    assert found.high is not None
    assert 1.5 < found.low < 2.0 < found.high < 2.7
    assert throughput(slow, fast).outcome == WORSE
    assert by_latency(*sides(fast, slow, SINGLE_STREAM)).outcome == BETTER
    assert by_latency(*sides(slow, fast, SINGLE_STREAM)).outcome == WORSE


def test_devices_within_five_percent_are_the_same_if_the_rounds_agree() -> None:
    assert throughput(Behaviour(ms=10.0), Behaviour(ms=10.1)).outcome == SAME


def test_a_ratio_whose_rounds_scatter_is_undecided_and_says_what_would_decide() -> None:
    found = throughput(Behaviour(ms=10.0, drift=0.2), Behaviour(ms=12.0, drift=0.2))
    assert found.outcome == UNDECIDED
    assert "rounds" in found.reason


@pytest.mark.parametrize("share", [0.51, 1.0])
def test_nothing_is_concluded_from_a_device_that_refuses_requests(share: float) -> None:
    refusing = Behaviour(ms=1.0, fails_share=share)
    for quantity in (by_throughput, by_latency, by_tail):
        for order in ((refusing, Behaviour()), (Behaviour(), refusing)):
            found = quantity(*sides(*order, OFFLINE if quantity is by_throughput else SINGLE_STREAM))
            assert found.outcome == UNDECIDED


def test_a_worse_tail_is_found_although_the_medians_speak_for_the_device() -> None:
    tailed = Behaviour(ms=2.0, slow_share=0.03, slow_ms=100.0)
    found = by_tail(*sides(tailed, Behaviour(ms=10.0), SINGLE_STREAM))
    assert (found.quantity, found.outcome) == (TAIL, WORSE)
    assert by_latency(*sides(tailed, Behaviour(ms=10.0), SINGLE_STREAM)).outcome == BETTER
    assert by_tail(*sides(Behaviour(ms=10.0), tailed, SINGLE_STREAM)).outcome == BETTER


def test_a_tail_needs_459_answers() -> None:
    found = by_tail(*sides(Behaviour(ms=100.0), Behaviour(ms=10.0), SINGLE_STREAM))
    assert (found.outcome, "p99 needs 459 answers" in found.reason) == (UNDECIDED, True)


def test_two_devices_that_the_senders_limit_are_undecided_not_equal() -> None:
    limited = Behaviour(ms=1.0, client_ms=0.9, client_cpu=0.95)
    found = throughput(limited, limited)
    assert found.outcome == UNDECIDED
    assert "use a quieter machine, more --client-processes" in found.reason


def test_a_limited_device_that_is_ahead_all_the_same_is_at_least_so_much_better() -> None:
    limited = Behaviour(ms=1.0, client_ms=0.9, client_cpu=0.95)
    found = throughput(limited, Behaviour(ms=50.0))
    assert found.outcome == BETTER
    assert found.high is not None
    assert found.high > 5 * (found.low or 0)


def test_what_others_took_from_a_device_is_taken_into_account() -> None:
    disturbed = Behaviour(ms=13.0, machine=replace(QUIET, other_work_percent=40.0))
    assert throughput(Behaviour(ms=10.0), disturbed).outcome == UNDECIDED
    assert throughput(Behaviour(ms=5.0), disturbed).outcome == BETTER


def test_two_rounds_are_too_few() -> None:
    assert "2 rounds are valid on both" in throughput(Behaviour(ms=5.0), Behaviour(ms=10.0), rounds=2).reason


def test_names_and_quantities_are_kept() -> None:
    found = throughput(Behaviour(), Behaviour())
    assert (found.first, found.second, found.quantity) == ("one", "other", THROUGHPUT)
    assert by_latency(*sides(Behaviour(), Behaviour(), SINGLE_STREAM)).quantity == LATENCY


def test_a_ratio_that_the_client_hides_says_so_however_the_rounds_scatter() -> None:
    one, other = sides(Behaviour(ms=10.0, drift=0.03), Behaviour(ms=10.5, drift=0.03), OFFLINE)
    found = by_throughput(replace(one, headroom=20.0), replace(other, headroom=20.0))
    assert found.outcome == UNDECIDED
    assert found.reason.startswith("senders or other work may have held back one and other")
