import numpy as np
import pytest
import torch
from torch import Tensor, nn
from turnout_exporter.errors import ConversionError, SourceError
from turnout_exporter.pytorch.export import Call, sample_at
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.points import Point


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b


class Blank(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / torch.zeros(4)


class Echo(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x.mul_(2)}


class Narrow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


TWO, ONE = np.full(3, 2.0, np.float32), np.ones(3, np.float32)


@pytest.mark.parametrize("names", [("a", "b"), ("left", "right")])
def test_inputs_are_passed_by_name_or_by_position(names: tuple[str, str]) -> None:
    specs = parse_inputs([f"{name}=float32[3]" for name in names])
    answer = Call.of(Difference(), specs)(dict(zip(names, (TWO, ONE), strict=True)))
    assert isinstance(answer, Tensor)
    assert answer.tolist() == [1, 1, 1]


def test_named_inputs_may_be_in_any_order() -> None:
    answer = Call.of(Difference(), parse_inputs(["b=float32[3]", "a=float32[3]"]))({"b": ONE, "a": TWO})
    assert isinstance(answer, Tensor)
    assert answer.tolist() == [1, 1, 1]


def test_a_misspelt_input_is_reported_with_the_parameters() -> None:
    with pytest.raises(SourceError, match="forward has no parameter c; it has a, b"):
        Call.of(Difference(), parse_inputs(["a=float32[3]", "c=float32[3]"]))


@pytest.mark.parametrize(
    ("model", "text", "complaint"),
    [
        (Blank(), "x=float32[batch,5]", r"the model itself fails at batch=2: RuntimeError.*--range dim=low..high"),
        (Blank(), "x=float32[batch,4]", "output 'output' has no finite value at batch=2"),
        (Echo(), "x=float32[batch,4]", "an input and an output are both called 'x'"),
        (Narrow(), "x=float32[batch,4]", "output 'output' is bfloat16"),
    ],
)
def test_outputs_that_cannot_be_a_reference_are_refused_with_the_point(model: nn.Module, text: str, complaint: str) -> None:
    specs = parse_inputs([text])
    with pytest.raises(ConversionError, match=complaint):
        sample_at(Point({"batch": 2}), Call.of(model, specs), specs, None)


def test_inputs_are_kept_as_they_were_before_forward_wrote_into_them() -> None:
    specs = parse_inputs(["x=float32[batch,4]"])
    sample = sample_at(Point({"batch": 2}), Call.of(Echo(), specs), specs, ["y"])
    np.testing.assert_allclose(sample.outputs["y"], 2 * sample.inputs["x"])
