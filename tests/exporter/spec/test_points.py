import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_exporter.errors import SpecError
from turnout_exporter.spec.points import Limits, Point, base_sizes, batch_limits, check_ranges, parse_range, plan

DIMS = ["batch", "seq", "width"]


def sizes(points: list[Point]) -> list[dict[str, int]]:
    return [point.sizes for point in points]


def test_each_dimension_is_tried_at_both_ends_and_in_between_and_all_at_their_lowest() -> None:
    assert sizes(plan({"batch": 2, "seq": 3}, {"batch": Limits(1, 32), "seq": Limits(1, 512)})) == [
        {"batch": 2, "seq": 3},
        {"batch": 1, "seq": 3},
        {"batch": 7, "seq": 3},
        {"batch": 32, "seq": 3},
        {"batch": 2, "seq": 1},
        {"batch": 2, "seq": 10},
        {"batch": 2, "seq": 512},
        {"batch": 1, "seq": 1},
    ]


def test_only_multiples_of_a_step_are_tried() -> None:
    assert sizes(plan({"height": 64}, {"height": Limits(32, 640, 32)})) == [
        {"height": 64},
        {"height": 32},
        {"height": 192},
        {"height": 640},
    ]


def test_a_model_without_free_dimensions_is_tried_with_two_sets_of_values() -> None:
    assert [point.label for point in plan({}, {})] == ["fixed", "fixed#2"]


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    low, step = draw(st.integers(1, 50)), draw(st.integers(1, 8))
    return Limits(low, low + step * draw(st.integers(0, 50)), step)


@given(st.dictionaries(st.sampled_from(DIMS), limits(), min_size=1))
def test_every_point_lies_within_the_limits_and_none_is_tried_twice(ranges: dict[str, Limits]) -> None:
    dims = list(ranges)
    tried = sizes(plan(base_sizes(dims, ranges), ranges))
    assert all(list(point) == dims for point in tried)
    assert all(ranges[dim].clamp(size) == size for point in tried for dim, size in point.items())
    assert len({tuple(point.items()) for point in tried}) == len(tried)
    for dim in dims:
        assert {ranges[dim].low, ranges[dim].high} <= {point[dim] for point in tried}


@given(st.lists(st.sampled_from(DIMS), min_size=1, unique=True))
def test_the_base_sizes_are_at_least_two_and_all_different(dims: list[str]) -> None:
    base = list(base_sizes(dims, {}).values())
    assert min(base) >= 2
    assert len(set(base)) == len(base)


@given(st.dictionaries(st.from_regex(r"[a-z_]\w*", fullmatch=True), st.integers(1, 999)), st.integers(1, 3))
def test_a_label_parses_to_its_point(sizes: dict[str, int], draw: int) -> None:
    point = Point(sizes, draw)
    assert Point.parse(point.label) == point


def test_a_point_gives_the_same_random_values_every_time() -> None:
    first, again, other = (Point({"batch": size}).random().random(4) for size in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_range_includes_both_ends() -> None:
    assert parse_range("seq=1..512") == ("seq", Limits(1, 512))


def test_a_range_may_have_a_step_and_ends_with_its_last_size() -> None:
    assert parse_range("height=64..650/32") == ("height", Limits(64, 640, 32))


@pytest.mark.parametrize("text", ["seq", "seq=1", "seq=1:5", "seq=..5", "seq=0..5", "seq=5..4", "seq=-1..4", "seq=1..4/0"])
def test_a_range_that_cannot_be_parsed_is_named(text: str) -> None:
    with pytest.raises(SpecError, match=f"range '{text}'"):
        parse_range(text)


def test_the_largest_batch_is_verified() -> None:
    assert batch_limits(["batch"], {}, 64) == ({"batch": Limits(1, 64)}, 64)


def test_the_end_of_the_batch_range_is_the_default_batch_size() -> None:
    assert batch_limits(["batch"], {"batch": Limits(1, 8)}, None) == ({"batch": Limits(1, 8)}, 8)


def test_a_largest_batch_of_one_row_is_still_verified_with_two() -> None:
    assert batch_limits(["batch"], {}, 1) == ({"batch": Limits(1, 2)}, 1)


def test_without_batching_the_batch_axis_is_a_dimension_like_any_other() -> None:
    assert batch_limits(["batch"], {}, 0) == ({}, 0)


@pytest.mark.parametrize("given_limits", [Limits(1, 4), Limits(2, 8), Limits(1, 9, 2)])
def test_rows_outside_the_batch_range_are_refused(given_limits: Limits) -> None:
    with pytest.raises(SpecError, match="a batch of 1 to 8 rows isn't within --range batch"):
        batch_limits(["batch"], {"batch": given_limits}, 8)


def test_a_range_of_an_unknown_dimension_is_refused() -> None:
    with pytest.raises(SpecError, match=r"no input has a dimension 'sqe'.*there are batch, seq"):
        check_ranges(["batch", "seq"], ["sqe"])
