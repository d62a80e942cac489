import numpy as np
import pytest
from turnout_exporter.compare import Comparison, compare, scales


def compared(expected: object, actual: object, dtype: str = "float32") -> Comparison:
    return compare("batch=2", "logits", np.array(expected, dtype), np.array(actual, dtype))


def test_the_error_is_absolute_and_relative_to_the_largest_value() -> None:
    result = compared([[1.0, -200.0]], [[1.01, -200.0]])
    assert result.max_abs_error == pytest.approx(0.01, rel=1e-4)
    assert result.max_rel_error == pytest.approx(0.01 / 200, rel=1e-4)
    assert result.problem == ""


def test_a_difference_is_reported_with_its_position_and_size() -> None:
    result = compared([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.5, 4.0]])
    assert result.problem == "differs by 0.5 at [1, 0]: 3 became 3.5 (allowed 0.00041)"


def test_the_share_of_the_elements_that_differ_is_counted() -> None:
    assert compared([1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 3.0, 4.00001]).differing_share == 0.25
    assert compared([0, 1, 2], [1, 2, 2], "int64").differing_share == pytest.approx(2 / 3)
    assert compared([0.5], [0.5]).differing_share == compared(np.zeros((0, 4)), np.zeros((0, 4))).differing_share == 0
    assert compared([0.5], [0.5, 0.5]).differing_share == 1


def test_the_input_rows_of_the_worst_element_are_named() -> None:
    expected = np.zeros((2, 3), np.float32)
    inputs = {
        "ids": np.arange(40).reshape(2, 20),
        "mask": np.array([[1], [0]]),
        "scale": np.array([0.5, 2.25]),
        "table": expected[:1],
    }
    actual = np.array([[0, 0, 0], [1, 1, 1]], np.float32)
    problem = compare("p", "y", expected, actual, inputs).problem
    assert problem.endswith(
        "at [1, 0]: 0 became 1 (allowed 1e-05), "
        "for ids[1] = [20 21 22 23 24 25 26 27 28 29 30 31 ...], mask[1] = [0], scale[1] = 2.25"
    )


def test_a_given_tolerance_replaces_that_of_the_type_for_integers_as_well() -> None:
    expected, actual = np.array([100, 0], np.uint8), np.array([99, 0], np.uint8)
    assert compare("p", "y", expected, actual, tolerance=0.02).problem == ""
    assert compare("p", "y", expected, actual, tolerance=0.005).problem
    assert compare("p", "y", np.ones(2, np.float32), np.full(2, 1.04, np.float32), tolerance=0.05).problem == ""


@pytest.mark.parametrize("fill", [-1e9, 1e4, -np.finfo(np.float32).max])
@pytest.mark.parametrize("columns", [1, 4])
def test_a_masks_fill_value_allows_the_other_values_no_more(fill: float, columns: int) -> None:
    expected = np.random.default_rng(1).uniform(1, 2, (4, 6))
    expected[:, :columns] = fill
    actual = expected.copy()
    actual[3, 5] += 0.01
    actual[0, 0] *= 1 - 1e-6
    assert "at [3, 5]" in compared(expected, actual).problem
    assert 0.005 < compared(expected, actual).max_rel_error < 0.01
    actual[3, 5] = expected[3, 5]
    assert compared(expected, actual).problem == ""
    actual[0, 0] = fill * 0.99
    assert "at [0, 0]" in compared(expected, actual).problem


def test_several_fill_values_are_each_judged_against_themselves() -> None:
    expected = np.array([0.1, 0.2, 0.3, 0.0, -1e4, -1e4, -1e9, -np.inf])
    assert scales(expected).tolist() == [0.3, 0.3, 0.3, 0.3, 1e4, 1e4, 1e9, 0.3]


@pytest.mark.parametrize(
    "ordinary",
    [
        [1e-9, 1e-7, 1e-5, 1e-3, 0.999],  # probabilities
        [0.0, 0.0, 0.0, 0.0, 5000.0, 7000.0],  # after a ReLU
        [0.001, 4000.0, 5000.0, -7000.0],  # one is small by chance
        [0.4, 3.0, 22.0, 180.0, 1500.0, 20000.0],  # no gap
        [],
        [np.nan, np.inf],
    ],
)
def test_ordinary_values_are_judged_against_the_largest_one(ordinary: list[float]) -> None:
    expected = np.array(ordinary)
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    assert scales(expected).tolist() == [largest] * len(expected)


def test_integers_are_judged_against_the_largest_one() -> None:
    assert scales(np.array([1, 2, 3, 10**9])).tolist() == [1e9] * 4


def test_text_must_be_equal() -> None:
    expected = np.array([["a", "b"]])
    assert compare("p", "y", expected, np.array([["a", "b"]])).problem == ""
    assert compare("p", "y", expected, np.array([["a", "longer"]])).problem == "is 'longer' at [0, 1] instead of 'b'"


@pytest.mark.parametrize(("error", "agrees"), [(1.9e-5, True), (1.3e-4, False)])
def test_float32_may_differ_by_a_ten_thousandth_of_its_scale(error: float, agrees: bool) -> None:
    assert (compared([0.1, 1.0], [0.1 + error, 1.0]).problem == "") is agrees


def test_zeros_may_differ_by_the_absolute_tolerance() -> None:
    assert compared([0.0], [9e-6]).problem == ""
    assert compared([0.0], [2e-5]).problem


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8"])
def test_integers_and_booleans_must_be_equal(dtype: str) -> None:
    assert compared([0, 1], [0, 1], dtype).problem == ""
    assert "differs by 1 at [1]" in compared([0, 1], [0, 0], dtype).problem


def test_infinities_and_nans_in_the_same_places_count_as_equal() -> None:
    result = compared([np.nan, -np.inf, 1.0], [np.nan, -np.inf, 1.0])
    assert (result.max_abs_error, result.problem) == (0.0, "")


@pytest.mark.parametrize("actual", [0.0, np.inf, -np.inf])
def test_a_nan_in_only_one_of_them_is_an_infinite_error(actual: float) -> None:
    assert compared([np.nan, 1.0], [actual, 1.0]).max_abs_error == np.inf


def test_another_shape_or_type_is_named() -> None:
    expected = np.zeros((7, 10), np.float32)
    assert compare("p", "y", expected, expected[:2]).problem == "is float32[2,10] instead of float32[7,10]"
    assert compare("p", "y", expected, expected.astype(np.float64)).problem.startswith("is float64[7,10]")


def test_empty_outputs_are_equal() -> None:
    assert compared(np.zeros((0, 4)), np.zeros((0, 4))).problem == ""
