"""Tests that classification gives the largest values as text."""

import ml_dtypes
import numpy as np
import pytest
from turnout_server.core.errors import InvalidRequest
from turnout_server.wire.classification import classify


def test_each_row_starts_with_its_largest_value() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [3, 2, 1]], np.float32)
    text = classify(scores, 2, ("a", "b", "c"), batched=True)
    assert text.tolist() == [["0.700000:1:b", "0.200000:2:c"], ["3.000000:0:a", "2.000000:1:b"]]


def test_an_unbatched_output_is_one_list_of_classes() -> None:
    assert classify(np.array([[1, 4], [3, 2]]), 3, (), batched=False).tolist() == ["4:1", "3:2", "2:3"]


def test_dimensions_after_the_first_are_flattened() -> None:
    assert classify(np.arange(8).reshape(2, 2, 2), 1, (), batched=True).tolist() == [["3:3"], ["7:3"]]


def test_equal_values_keep_their_order() -> None:
    assert classify(np.zeros((1, 3), np.int32), 3, (), batched=True).tolist() == [["0:0", "0:1", "0:2"]]


def test_a_class_without_a_label_has_only_its_index() -> None:
    assert classify(np.array([[1, 2]]), 2, ("a",), batched=True).tolist() == [["2:1", "1:0:a"]]


@pytest.mark.parametrize(("shape", "n", "expected"), [((0, 4), 2, (0, 2)), ((2, 0), 2, (2, 0)), ((2, 3), 99, (2, 3))])
def test_there_are_never_more_classes_than_values(shape: tuple[int, ...], n: int, expected: tuple[int, ...]) -> None:
    assert classify(np.zeros(shape, np.float32), n, (), batched=True).shape == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(1.5), "1.500000:0"),
        (np.float64(1e300), f"{1e300:f}:0"),
        (np.float32("nan"), "nan:0"),
        (np.float32("-inf"), "-inf:0"),
        (np.int64(-(2**63)), f"{-(2**63)}:0"),
        (np.uint8(255), "255:0"),
    ],
)
def test_numbers_are_formatted_as_in_c(value: np.generic, text: str) -> None:
    assert classify(np.array([[value]]), 1, (), batched=True).tolist() == [[text]]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.bool_, np.object_])
def test_datatypes_that_triton_does_not_classify_are_refused(dtype: type) -> None:
    with pytest.raises(InvalidRequest, match="class result not available for output of datatype"):
        classify(np.zeros((1, 2), dtype), 1, (), batched=True)
