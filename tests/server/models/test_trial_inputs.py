"""Inputs to try a session with: published ones in as many rows as needed, else made-up ones."""

import numpy as np
from turnout_server.core.datatypes import of_config
from turnout_server.core.signatures import TensorSpec
from turnout_server.models.trial_inputs import MAX_ROWS, example_of, repeated, trial_inputs

IDS = TensorSpec("ids", of_config("TYPE_INT64"), (-1, -1))
SCALE = TensorSpec("scale", of_config("TYPE_FP32"), (1,))


def test_published_rows_are_repeated_from_a_first_one_on() -> None:
    example = {"ids": np.array([[1, 2], [3, 4], [5, 6]]), "scale": np.array([2], np.float32)}
    inputs = trial_inputs((IDS, SCALE), 4, 2, example)
    assert inputs["ids"].tolist() == [[5, 6], [1, 2], [3, 4], [5, 6]]
    assert inputs["scale"].tolist() == [2]


def test_inputs_that_lack_a_tensor_are_not_used() -> None:
    assert repeated((IDS, SCALE), 1, 0, {"ids": np.array([[1, 2]])}) is None
    assert trial_inputs((IDS, SCALE), 1, 0, {"ids": np.array([[1, 2]])}).keys() == {"ids", "scale"}


def test_inputs_whose_first_axes_differ_have_no_rows() -> None:
    other = TensorSpec("other", IDS.datatype, (-1,))
    assert repeated((IDS, other), 1, 0, {"ids": np.array([[1, 2]]), "other": np.array([1, 2])}) is None


def test_the_example_is_the_first_rows_of_the_largest_run() -> None:
    runs = [{"x": np.zeros((rows, 2), np.float32), "k": np.array(3)} for rows in (1, 20, 2)]
    example = example_of(runs)
    assert example is not None
    assert (example["x"].shape, example["k"].tolist()) == ((MAX_ROWS, 2), 3)
    assert example_of([]) is None
