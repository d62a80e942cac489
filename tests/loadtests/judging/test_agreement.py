from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from turnout_loadtests.judging.agreement import Agreement, agreement

EXPECTED = [{"logits": np.array([[1.0, 4.0], [3.0, 2.0]])}, {"logits": np.array([[0.0, 1.0]])}]


def test_equal_outputs_agree_in_every_row() -> None:
    assert agreement("m", "cuda", "cpu", EXPECTED, EXPECTED) == Agreement("m", "cuda", "cpu", 3, 0.0, 3)


def test_the_error_is_relative_to_the_largest_element() -> None:
    found = [{"logits": np.array([[1.0, 4.2], [1.9, 2.0]])}, EXPECTED[1]]
    made = agreement("m", "cuda", "cpu", found, EXPECTED)
    assert made.max_error == pytest.approx(1.1 / 4.0)
    assert made.same_top == 2  # the second row's largest element moved


@pytest.mark.parametrize(
    "output", [np.array([[1.0], [2.0]]), np.array([["a", "b"], ["c", "d"]]), np.array([[np.nan, 1.0], [1.0, 1.0]])]
)
def test_what_cannot_be_compared_has_no_error(output: NDArray[Any]) -> None:
    assert agreement("m", "a", "b", [{"logits": output}], EXPECTED[:1]).max_error is None
    assert agreement("m", "a", "b", [{}], EXPECTED[:1]).max_error is None
