import numpy as np
import pytest
from turnout_exporter.compare import Comparison, compare


def compared(expected: object, actual: object, dtype: str = "float32") -> Comparison:
    return compare("batch=2", "logits", np.array(expected, dtype), np.array(actual, dtype))


def test_the_error_is_absolute_and_relative_to_the_largest_value() -> None:
    result = compared([[1.0, -200.0]], [[1.01, -200.0]])
    assert result.max_abs_error == pytest.approx(0.01, rel=1e-4)
    assert result.max_rel_error == pytest.approx(0.01 / 200, rel=1e-4)
    assert result.problem == ""


def test_a_difference_is_reported_with_its_position_and_size() -> None:
    result = compared([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.5, 4.0]])
    assert result.problem == "differs by 0.5 at [1, 0]: PyTorch 3, ONNX Runtime 3.5 (allowed 0.00041)"


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
    assert compare("p", "y", expected, expected[:2]).problem == "is float32[2,10], PyTorch's is float32[7,10]"
    assert compare("p", "y", expected, expected.astype(np.float64)).problem.startswith("is float64[7,10]")


def test_empty_outputs_are_equal() -> None:
    assert compared(np.zeros((0, 4)), np.zeros((0, 4))).problem == ""
