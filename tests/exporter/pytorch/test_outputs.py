from collections import namedtuple

import pytest
import torch
from turnout_exporter.errors import ConversionError, SpecError
from turnout_exporter.pytorch.outputs import named_outputs

T = torch.zeros(2)
Boxes = namedtuple("Boxes", "xy wh")


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (T, ["output"]),
        ((T, T), ["output_0", "output_1"]),
        ([T], ["output_0"]),
        ({"logits": T, "boxes": T}, ["logits", "boxes"]),
        ({"boxes": (T, T), "deep": {"er": T}}, ["boxes_0", "boxes_1", "deep_er"]),
        ((T, {"mask": T}), ["output_0", "output_1_mask"]),
        (Boxes(T, T), ["xy", "wh"]),
        ({0: T}, ["output_0"]),
    ],
)
def test_outputs_are_named_after_the_structure_that_forward_returns(answer: object, names: list[str]) -> None:
    assert list(named_outputs(answer, None)) == names


def test_given_names_replace_the_derived_ones() -> None:
    assert list(named_outputs((T, T), ["a", "b"])) == ["a", "b"]


def test_too_few_given_names_are_reported_with_the_outputs() -> None:
    with pytest.raises(SpecError, match="1 output names for 2 outputs; in order they are output_0, output_1"):
        named_outputs((T, T), ["a"])


@pytest.mark.parametrize("answer", [{"a_0": T, "a": (T,)}, {"output": T, "x": T}])
def test_two_outputs_with_the_same_name_are_refused(answer: object) -> None:
    names = ["same", "same"] if "x" in answer else None  # type: ignore[operator]
    with pytest.raises(ConversionError, match="two outputs have the same name"):
        named_outputs(answer, names)


@pytest.mark.parametrize("leaf", [None, 3, "text"])
def test_an_output_that_is_not_a_tensor_is_named(leaf: object) -> None:
    with pytest.raises(ConversionError, match=f"output 'output_1' is {type(leaf).__name__}, not a tensor"):
        named_outputs((T, leaf), None)
