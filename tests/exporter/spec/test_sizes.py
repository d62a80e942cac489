"""The search for sizes, on models that are only a rule of which sizes they take."""

from collections.abc import Callable

import pytest
from turnout_exporter.spec.points import Limits, Sizes
from turnout_exporter.spec.sizes import Search, Trial


def search(takes: Callable[[Sizes], bool], cpu_s: float = 0.0, caps: dict[str, int] | None = None) -> Search:
    """A model that takes the sizes for which the rule is true, and needs that much processor time for each unit of size."""

    def attempt(sizes: Sizes) -> Trial:
        spent_s = cpu_s * sum(sizes.values())
        return Trial(spent_s, nbytes=sum(sizes.values())) if takes(sizes) else Trial(spent_s, error=f"no {sizes}")

    return Search(attempt, caps or {})


def limits(takes: Callable[[Sizes], bool], base: Sizes, **options: float) -> dict[str, Limits]:
    _, found = search(takes, options.get("cpu_s", 0.0)).limits(base, {})
    return found


@pytest.mark.parametrize("end", [7, 77, 512, 4095])
def test_a_size_grows_exactly_to_the_end_of_what_the_model_takes(end: int) -> None:
    assert limits(lambda sizes: sizes["seq"] <= end, {"seq": 3}) == {"seq": Limits(1, end)}


def test_a_lower_end_is_found_as_well() -> None:
    assert limits(lambda sizes: 5 <= sizes["seq"] <= 100, {"seq": 8}) == {"seq": Limits(5, 100)}


def test_a_step_is_found() -> None:
    assert limits(lambda sizes: sizes["height"] % 32 == 0, {"height": 64}) == {"height": Limits(32, 4096, 32)}


@pytest.mark.parametrize(
    ("takes", "base", "moved", "limits"),
    [
        (lambda h: h % 4 in (0, 3), 3, 4, Limits(4, 4096, 4)),
        (lambda h: h % 32 in (0, 31) and h > 60, 63, 64, Limits(64, 4096, 32)),
        (lambda h: h % 4 == 3, 3, 3, Limits(3, 4095, 4)),
        (lambda h: h % 4 == 0 or h in (3, 7, 11), 3, 4, Limits(4, 4096, 4)),
        (lambda h: h % 32 in (0, 31) and h != 96, 31, 31, Limits(31, 4095, 32)),
    ],
)
def test_a_step_is_counted_from_its_multiples_if_the_model_takes_them(
    takes: Callable[[int], bool], base: int, moved: int, limits: Limits
) -> None:
    found = search(lambda sizes: takes(sizes["height"])).limits({"height": base}, {})
    assert found == ({"height": moved}, {"height": limits})


def test_a_base_that_moves_to_a_multiple_has_no_size_of_another_dimension() -> None:
    base, found = search(lambda sizes: all(sizes[dim] % 4 in (0, 3) for dim in "hw")).limits({"batch": 2, "h": 3, "w": 4}, {})
    assert base == {"batch": 2, "h": 8, "w": 4}
    assert found == {"batch": Limits(1, 4096), "h": Limits(4, 4096, 4), "w": Limits(4, 4096, 4)}


def test_a_dimension_that_cannot_change_keeps_its_size() -> None:
    assert limits(lambda sizes: sizes["seq"] == 16, {"seq": 16}) == {"seq": Limits(16, 16)}


def test_a_model_that_takes_everything_is_tried_up_to_the_budget() -> None:
    assert limits(lambda _: True, {"seq": 3}) == {"seq": Limits(1, 4096)}


def test_an_expensive_model_is_not_tried_further() -> None:
    found = limits(lambda _: True, {"seq": 3}, cpu_s=0.02)["seq"]
    assert 100 <= found.high < 400


def test_a_size_that_begins_at_hundreds_goes_further() -> None:
    assert limits(lambda sizes: sizes["samples"] >= 720, {"samples": 1024}) == {"samples": Limits(720, 65536)}


def test_a_cap_is_the_end() -> None:
    assert search(lambda _: True, caps={"seq": 300}).limits({"seq": 3}, {}) == ({"seq": 3}, {"seq": Limits(1, 300)})


def test_given_limits_are_not_searched() -> None:
    def never(sizes: Sizes) -> Trial:
        raise AssertionError(sizes)

    assert Search(never).limits({"batch": 2}, {"batch": Limits(1, 8)}) == ({"batch": 2}, {"batch": Limits(1, 8)})


def test_a_lack_of_memory_ends_the_search_where_it_worked() -> None:
    def attempt(sizes: Sizes) -> Trial:
        return Trial(0.0, error="can't allocate", is_exhausted=True) if sizes["seq"] > 50 else Trial(0.0)

    _, found = Search(attempt).limits({"seq": 3}, {})
    assert 25 <= found["seq"].high <= 50


@pytest.mark.parametrize(
    ("takes", "base"),
    [
        (lambda _: True, {"batch": 2, "height": 3, "width": 4}),
        (lambda sizes: min(sizes["height"], sizes["width"]) >= 64, {"batch": 2, "height": 64, "width": 128}),
        (lambda sizes: sizes["height"] == sizes["width"] == 224, {"batch": 2, "height": 224, "width": 224}),
    ],
)
def test_the_base_is_the_first_size_that_the_model_takes(takes: Callable[[Sizes], bool], base: Sizes) -> None:
    assert search(takes).base(["batch", "height", "width"], {}) == (base, "")


def test_a_base_within_given_limits_is_kept() -> None:
    base, _ = search(lambda sizes: sizes["width"] == 32).base(["height", "width"], {"height": Limits(5, 9)})
    assert base == {"height": 5, "width": 32}


def test_a_model_that_takes_nothing_gives_the_error_of_the_smallest_sizes() -> None:
    assert search(lambda _: False).base(["seq"], {}) == ({}, "no {'seq': 2}")
