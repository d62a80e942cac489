import pytest
from turnout_loadtests.reporting.diff import (
    BETTER,
    GONE,
    NOT_VALID,
    ONCE,
    SAME,
    UNCLEAR,
    WORSE,
    Difference,
    changed,
    difference_table,
    differences,
)
from turnout_loadtests.reporting.results import Results
from turnout_loadtests.statistics import Interval

from tests.loadtests.made import Behaviour, World


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (Interval(100, 98, 102), Interval(150, 148, 152), BETTER),
        (Interval(100, 98, 102), Interval(50, 48, 52), WORSE),
        (Interval(100, 98, 102), Interval(101, 99, 103), SAME),
        (Interval(100, 80, 120), Interval(110, 90, 130), UNCLEAR),
        (Interval(100, 98, 102), None, UNCLEAR),
        (None, None, UNCLEAR),
    ],
)
def test_a_change_needs_intervals_that_lie_apart(before: Interval | None, after: Interval | None, change: str) -> None:
    assert changed(before, after, more_is_better=True) == change


def test_every_quantity_is_compared_with_its_own_direction() -> None:
    before, after = (World({"cpu": Behaviour(ms=ms)}, window_s=2.0).results() for ms in (10.0, 20.0))
    found = differences(before, after)
    assert {(each.quantity, each.change) for each in found} == {("requests/s", WORSE), ("p50 ms", WORSE), ("p99 ms", WORSE)}
    assert all(each.is_worse for each in found)
    assert {each.change for each in differences(after, before)} == {BETTER}
    assert not any(each.is_worse for each in differences(before, before))
    assert difference_table(found).row_count == len(found)


@pytest.fixture(scope="module")
def pairs() -> list[Difference]:
    """Pairs of results of one device, whose rounds differ by 6 % (one standard deviation), as they do where others work."""

    def made(seed: int) -> Results:
        return World({"cpu": Behaviour(drift=0.06)}, rounds=6, seed=seed, window_s=5.0, batches=()).results()

    return [each for seed in range(0, 40, 2) for each in differences(made(seed), made(seed + 1))]


@pytest.mark.parametrize("quantity", ["requests/s", "p50 ms", "p99 ms"])
def test_equal_devices_are_not_told_apart_however_many_answers_a_round_has(quantity: str, pairs: list[Difference]) -> None:
    found = [each.change for each in pairs if each.quantity == quantity]
    assert len(found) == 20
    assert not {BETTER, WORSE} & set(found)


def test_what_only_one_result_has_is_named_and_worse_if_it_was_there_before() -> None:
    one = World({"cpu": Behaviour()}, window_s=2.0).results()
    both = World({"cpu": Behaviour(), "cuda": Behaviour()}, window_s=2.0).results()
    found = [each for each in differences(one, both) if each.change == ONCE]
    assert {each.device for each in found} == {"cuda"}
    assert not any(each.is_worse for each in found)
    lost = [each for each in differences(both, one) if each.change == GONE]
    assert {(each.device, each.after) for each in lost} == {("cuda", None)}
    assert all(each.is_worse and each.before for each in lost)


@pytest.mark.parametrize(
    "broken", [Behaviour(fails_share=0.9), Behaviour(answers_as="cuda")], ids=["requests fail", "another device answers"]
)
def test_what_is_no_longer_valid_is_worse_and_the_other_way_round_it_is_not(broken: Behaviour) -> None:
    valid, invalid = (World({"cpu": each}, window_s=2.0).results() for each in (Behaviour(), broken))
    found = differences(valid, invalid)
    assert {(each.quantity, each.change) for each in found} == {
        (name, NOT_VALID) for name in ("requests/s", "p50 ms", "p99 ms")
    }
    assert all(each.is_worse for each in found)
    assert {each.change for each in differences(invalid, valid)} == {ONCE}
    assert differences(invalid, invalid) == []


def test_one_round_tells_no_change() -> None:
    before, after = (World({"cpu": Behaviour(ms=ms)}, rounds=1, window_s=2.0).results() for ms in (10.0, 20.0))
    assert {(each.quantity, each.change) for each in differences(before, after)} == {
        ("requests/s", UNCLEAR),
        ("p50 ms", UNCLEAR),
    }
