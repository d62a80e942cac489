import pytest
from turnout_loadtests.reporting.diff import BETTER, MISSING, SAME, UNCLEAR, WORSE, changed, difference_table, differences
from turnout_loadtests.statistics import Interval

from tests.loadtests.made import Behaviour, World


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (Interval(100, 98, 102), Interval(150, 148, 152), BETTER),
        (Interval(100, 98, 102), Interval(50, 48, 52), WORSE),
        (Interval(100, 98, 102), Interval(101, 99, 103), SAME),
        (Interval(100, 80, 120), Interval(110, 90, 130), UNCLEAR),
        (Interval(100, 98, 102), None, MISSING),
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


def test_what_only_one_result_has_is_named() -> None:
    one = World({"cpu": Behaviour()}, window_s=2.0).results()
    both = World({"cpu": Behaviour(), "cuda": Behaviour()}, window_s=2.0).results()
    assert {each.device for each in differences(one, both) if each.change == MISSING} == {"cuda"}
