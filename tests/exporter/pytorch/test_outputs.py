from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from turnout_exporter.errors import ConversionError, SpecError
from turnout_exporter.pytorch.outputs import choose, rename

T = torch.zeros(2)
Boxes = namedtuple("Boxes", "xy wh")


@dataclass
class Answer:
    """Like the outputs of Hugging Face's models, with a loss that isn't computed."""

    loss: Tensor | None
    logits: Tensor


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
        (Answer(None, T), ["logits"]),
        ({"loss": None, "past": ((T, None), (T, T))}, ["past_0_0", "past_1_0", "past_1_1"]),
    ],
)
def test_outputs_are_named_after_the_structure_that_forward_returns(answer: object, names: list[str]) -> None:
    assert list(choose(answer, None)) == names


def test_selected_outputs_come_in_the_given_order_and_the_rest_may_be_anything() -> None:
    answer = {"cache": SimpleNamespace(), "a": T, "b": T + 1}
    chosen = choose(answer, ["b", "a"])
    assert list(chosen) == ["b", "a"]
    assert chosen["b"].tolist() == [1, 1]


def test_a_selected_output_that_does_not_exist_is_answered_with_the_others() -> None:
    with pytest.raises(SpecError, match="forward returns no output 'logit'; it returns logits, boxes"):
        choose({"logits": T, "boxes": T}, ["logit"])


@pytest.mark.parametrize("leaf", [3, "text", SimpleNamespace()])
def test_an_output_that_is_not_a_tensor_is_named_with_a_choice(leaf: object) -> None:
    with pytest.raises(
        ConversionError, match=rf"'output_1' is {type(leaf).__name__}, not a tensor: choose .* --outputs output_0"
    ):
        choose((T, leaf), None)


def test_two_outputs_with_the_same_name_are_refused() -> None:
    with pytest.raises(ConversionError, match="two outputs have the same name"):
        choose({"a_0": T, "a": (T,)}, None)


@pytest.mark.parametrize("answer", [None, (), {"loss": None}])
def test_an_answer_without_tensors_is_refused(answer: object) -> None:
    with pytest.raises(ConversionError, match="returns no tensor"):
        choose(answer, None)


def test_given_names_replace_the_derived_ones() -> None:
    assert rename(["output_0", "output_1"], ["a", "b"]) == ["a", "b"]
    assert rename(["output_0"], None) == ["output_0"]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [(["a"], "1 output names for 2 outputs; in order they are output_0, output_1"), (["a", "a"], "the same name: a, a")],
)
def test_given_names_that_do_not_fit_are_refused(names: list[str], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        rename(["output_0", "output_1"], names)
