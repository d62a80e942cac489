"""The examination of models that are plain functions of arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_exporter.errors import ConversionError, SourceError, SpecError
from turnout_exporter.examination import (
    Run,
    Subject,
    differing,
    find_base,
    find_limits,
    mixed_outputs,
    points_of,
    size_notes,
    take_samples,
    tied_dims,
)
from turnout_exporter.spec import reference
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.points import Limits, Point
from turnout_exporter.spec.reference import Arrays

TWO = Point({"batch": 2})


def double(arrays: Arrays) -> Arrays:
    return {"y": 2 * arrays["x"]}


def subject(run: Run = double, *texts: str, given: Mapping[str, Any] | None = None) -> Subject:
    draw = (lambda _: given) if given is not None else None
    return Subject(run, parse_inputs(list(texts) or ["x=float32[batch,4]"]), draw)


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (lambda arrays: {"y": 1 / 0}, "the model itself fails at batch=2: ZeroDivisionError"),
        (lambda arrays: {"x": arrays["x"]}, "an input and an output are both called 'x'"),
        (lambda arrays: {"y": arrays["x"] * np.nan}, "output 'y' has no finite value at batch=2"),
    ],
)
def test_outputs_that_cannot_be_a_reference_are_refused_with_the_point(run: Run, complaint: str) -> None:
    with pytest.raises(ConversionError, match=complaint):
        subject(run).sample_at(TWO)


def test_samples_may_give_some_of_the_inputs() -> None:
    arrays = subject(double, "x=float32[batch,2]", "n=int64[batch]@0:5", given={"x": [[1, 2], [3, 4]]} and {
        "x": np.array([[1, 2], [3, 4]], np.float32)
    }).inputs_at(TWO)  # fmt: skip
    assert arrays["x"].tolist() == [[1, 2], [3, 4]]
    assert arrays["n"].shape == (2,)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"z": np.zeros(2)}, "--samples returns 'z' at batch=2, which is no input"),
        ({"x": np.zeros((2, 3), np.float32)}, "x"),
        ({"x": np.zeros((2, 4))}, "x"),
        ({"x": "text"}, "x"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_the_point(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint) as caught:
        subject(given=given).inputs_at(TWO)
    assert "batch=2" in str(caught.value)


def test_an_integer_that_nothing_describes_is_asked_for() -> None:
    with pytest.raises(SpecError, match="input 'n' has no values"):
        subject(double, "n=int64[batch]").inputs_at(TWO)


def test_unsorted_lengths_are_answered_with_the_option() -> None:
    def strict(arrays: Arrays) -> Arrays:
        raise RuntimeError("`lengths` array must be sorted in decreasing order when `enforce_sorted` is True.")

    with pytest.raises(ConversionError, match=":sorted behind the input"):
        subject(strict).sample_at(TWO)


def test_a_model_that_runs_at_no_size_is_refused_with_its_first_error_and_what_to_do() -> None:
    def fails(arrays: Arrays) -> Arrays:
        raise ValueError(f"{arrays['x'].shape[1]} pixels")

    with pytest.raises(ConversionError, match=r"at batch=2,w=3: ValueError: 3 pixels\. Growing sizes of w were tried.*--range"):
        find_base(subject(fails, "x=float32[batch,w]"), {"batch": Limits(1, 32)}, {})


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'Tensor' object has no attribute 'items'"),
        TypeError("forward() takes 1 positional argument"),
        RuntimeError("CUDA error: no kernel image is available"),
        AssertionError("Torch not compiled with CUDA enabled"),
        NotImplementedError("Could not run 'aten::x'"),
        ConversionError("output 'y' is ndarray, not a tensor"),
    ],
)
def test_an_error_that_no_other_input_avoids_comes_without_advice_on_inputs(error: Exception) -> None:
    def fails(_: Arrays) -> Arrays:
        raise error

    with pytest.raises(ConversionError) as caught:
        find_base(subject(fails, "x=float32[batch,w]"), {"batch": Limits(1, 32)}, {})
    assert str(caught.value).endswith(str(error))


@pytest.mark.parametrize("kind", [IndexError, AssertionError, ZeroDivisionError])
def test_an_error_that_other_values_may_avoid_comes_with_the_options(kind: type[Exception]) -> None:
    def fails(_: Arrays) -> Arrays:
        raise kind("index out of range in self")

    with pytest.raises(ConversionError, match=r"in self\. If it doesn't take such values, give their range, @low:high"):
        find_base(subject(fails), {"batch": Limits(1, 32)}, {})


def test_the_corner_of_all_the_largest_sizes_is_tried_where_it_is_affordable() -> None:
    base, limits = {"batch": 2, "seq": 3}, {"batch": Limits(1, 8), "seq": Limits(1, 16)}
    cheap = subject(double, "x=float32[batch,seq]")
    assert points_of(cheap, base, limits)[-1].sizes == {"batch": 8, "seq": 16}
    huge = {"batch": Limits(1, 8), "seq": Limits(1, 2**21)}
    assert {"batch": 8, "seq": 2**21} not in [point.sizes for point in points_of(cheap, base, huge)]


def test_dimensions_that_change_only_together_are_one() -> None:
    def multiply(arrays: Arrays) -> Arrays:
        return {"y": arrays["a"] * arrays["b"]}

    both = subject(multiply, "a=float32[batch,n]", "b=float32[batch,m]")
    base, given = {"batch": 2, "n": 8, "m": 8}, {"batch": Limits(1, 4)}
    base, limits = find_limits(both, base, given, {})
    assert limits == {"batch": Limits(1, 4), "n": Limits(8, 8), "m": Limits(8, 8)}
    assert tied_dims(both, base, limits, given) == ["n", "m"]
    assert tied_dims(both, base, limits, given | {"m": Limits(8, 8)}) == []
    assert tied_dims(subject(double, "x=float32[batch,n]"), {"batch": 2, "n": 3}, {"n": Limits(1, 9)}, {}) == []


def test_sizes_that_work_in_steps_only_are_noted_with_the_option() -> None:
    def by_fours(arrays: Arrays) -> Arrays:
        return {"y": arrays["x"].reshape(len(arrays["x"]), -1, 4)}

    reshaped = subject(by_fours, "x=float32[batch,n]")
    given = {"batch": Limits(1, 4)}
    base, limits = find_limits(reshaped, find_base(reshaped, given, {}), given, {})
    (note,) = size_notes(reshaped, base, limits, given)
    assert note.startswith("n was only seen to work in steps of 4 (4, 8, ...), so requests of other sizes are refused")
    assert note.endswith("--range n=low..high")
    assert size_notes(reshaped, base, limits, given | {"n": limits["n"]}) == []


def test_dimensions_under_several_names_are_noted() -> None:
    both = subject(lambda arrays: {"y": arrays["x"] + arrays["z"]}, "x=float32[n]", "z=float32[m]")
    (note,) = size_notes(both, {"n": 8, "m": 8}, {"n": Limits(8, 8), "m": Limits(8, 8)}, {})
    assert note.startswith("n and m were only seen to work at the same size")


def test_an_output_that_loses_a_dimension_at_one_size_is_noticed_at_once(tmp_path: Path) -> None:
    squeezing = subject(lambda arrays: {"y": arrays["x"].squeeze()})
    with pytest.raises(ConversionError, match=r"'y' is \[2, 4\] at batch=2 but \[4\] at batch=1"):
        take_samples(squeezing, [TWO, Point({"batch": 1})], tmp_path / "reference", lambda _: None)


def test_samples_are_written_while_the_points_are_counted(tmp_path: Path) -> None:
    shown: list[str] = []
    written = take_samples(subject(), [TWO, Point({"batch": 1})], tmp_path / "reference", shown.append)
    assert shown == ["1 of 2", "2 of 2"]
    assert [sample.point.label for sample in reference.read(tmp_path / "reference")] == ["batch=2", "batch=1"]
    assert len(written) == 2


def test_outputs_differ_by_more_than_rounding_or_by_their_names_and_shapes() -> None:
    one: Arrays = {"y": np.ones(3, np.float32), "n": np.arange(3)}
    assert differing(one, {"y": one["y"] * (1 + 1e-7), "n": np.arange(3)}) == []
    assert differing(one, {"y": one["y"] * 1.01, "n": np.arange(3)}) == ["y"]
    assert differing(one, {"y": one["y"][:2], "n": np.arange(3) + 1}) == ["y", "n"]
    assert differing(one, {}) == ["y", "n"]


def normalized(arrays: Arrays) -> Arrays:
    return {"y": arrays["x"] / np.abs(arrays["x"]).max(), "kept": arrays["x"] + 1}


def ranked(arrays: Arrays) -> Arrays:
    return {"y": np.argsort(arrays["x"].sum(1))}


def masked_and_centered(arrays: Arrays) -> Arrays:
    return {"y": np.concatenate([arrays["x"] - arrays["x"].mean(0), np.full_like(arrays["x"], -1e9)], 1)}


def padded_to_the_longest(arrays: Arrays) -> Arrays:
    return {"y": arrays["x"][:, : 1 + int(np.abs(arrays["x"]).max())]}


def rounded(arrays: Arrays) -> Arrays:
    """Like kernels that sum in another order for one row."""
    return {"y": arrays["x"] * np.float32(1 + 1e-6 * len(arrays["x"]))}


def refusing_one_row(arrays: Arrays) -> Arrays:
    return {"y": arrays["x"] // (6 // (len(arrays["x"]) - 1))}


@pytest.mark.parametrize(
    ("run", "mixed"),
    [
        (normalized, ["y"]),
        (ranked, ["y"]),
        (masked_and_centered, ["y"]),
        (padded_to_the_longest, ["y"]),
        (double, []),
        (rounded, []),
        (refusing_one_row, []),
        (lambda arrays: {"y": arrays["x"].sum(1), "mean": arrays["x"].mean(0)}, []),
    ],
)
def test_outputs_whose_rows_depend_on_each_other_are_named(run: Run, mixed: list[str]) -> None:
    several = subject(run)
    assert mixed_outputs(several, several.sample_at(Point({"batch": 3}))) == mixed


def test_rows_are_told_apart_only_where_axis_0_is_the_batch() -> None:
    fixed = subject(normalized, "x=float32[2,4]")
    assert mixed_outputs(fixed, fixed.sample_at(Point({}))) == []
    square = subject(normalized, "x=float32[batch,batch]")
    assert mixed_outputs(square, square.sample_at(TWO)) == []


def test_a_few_integers_of_many_may_come_from_rounding() -> None:
    def pixels(arrays: Arrays) -> Arrays:
        y = np.zeros((len(arrays["x"]), 2000), np.uint8)
        y[0, 0] = len(y)
        return {"y": y}

    image = subject(pixels)
    assert mixed_outputs(image, image.sample_at(TWO)) == []
