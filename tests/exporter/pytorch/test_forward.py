from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from turnout_exporter.errors import ConversionError, SourceError
from turnout_exporter.pytorch.forward import Forward, positional_inputs
from turnout_exporter.spec.inputspec import parse_inputs

TWO, ONE = np.full(3, 2.0, np.float32), np.ones(3, np.float32)


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return (a - b) * scale


class Anything(nn.Module):
    def forward(self, a: Tensor, **others: Tensor) -> Tensor:
        return a + sum(others.values())


class Narrow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


def forward(model: nn.Module, *names: str) -> Forward:
    specs = parse_inputs([f"{name}=float32[3]" for name in names])
    return Forward(model, names, positional_inputs(model, specs), None)


@pytest.mark.parametrize("names", [("a", "b"), ("left", "right")])
def test_inputs_are_passed_by_name_or_by_position(names: tuple[str, str]) -> None:
    answer = forward(Difference(), *names).run(dict(zip(names, (TWO, ONE), strict=True)))
    assert answer["output"].tolist() == [1, 1, 1]


def test_named_inputs_may_be_in_any_order() -> None:
    assert forward(Difference(), "b", "a").run({"b": ONE, "a": TWO})["output"].tolist() == [1, 1, 1]


def test_inputs_by_keyword_alone_are_passed_on() -> None:
    assert forward(Anything(), "a", "more").run({"a": ONE, "more": TWO})["output"].tolist() == [3, 3, 3]


def test_a_misspelt_input_is_reported_with_the_parameters() -> None:
    with pytest.raises(SourceError, match="forward has no parameter c; it has a, b"):
        forward(Difference(), "a", "c")


def test_a_missing_input_is_named() -> None:
    with pytest.raises(SourceError, match="forward also needs b: give --input for it, too"):
        forward(Difference(), "a")


@pytest.mark.parametrize("write", [lambda x: x.sub_(0.5), lambda x: x[0].fill_(7), lambda x: x.numpy().fill(3)])
def test_a_model_that_writes_into_its_inputs_leaves_the_arrays_as_they_were(write: Any) -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            write(x)
            return x

    array = np.arange(3, dtype=np.float32)
    first, second = (forward(Writing(), "x").run({"x": array})["output"].tolist() for _ in range(2))
    assert array.tolist() == [0, 1, 2]
    assert first == second != array.tolist()


def test_outputs_may_be_renamed() -> None:
    assert list(forward(Difference(), "a", "b").run({"a": ONE, "b": TWO}, ["gap"])) == ["gap"]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [(lambda x: x.to(torch.bfloat16), "bfloat16, which can't be served"), (lambda x: x.to_sparse(), "sparse or quantized")],
)
def test_an_output_without_a_counterpart_is_refused_with_the_fix(answer: Any, complaint: str) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return answer(x)

    with pytest.raises(ConversionError, match=complaint):
        forward(Odd(), "x").run({"x": ONE})


def test_text_is_refused_by_the_name_of_its_input() -> None:
    with pytest.raises(SourceError, match="input 'text' is string, and PyTorch has no tensors of text"):
        positional_inputs(nn.Identity(), parse_inputs(["text=string[batch]"]))
