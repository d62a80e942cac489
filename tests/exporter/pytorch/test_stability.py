import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from turnout_exporter.errors import ConversionError
from turnout_exporter.pytorch import stability
from turnout_exporter.pytorch.first_values import FirstValues
from turnout_exporter.pytorch.forward import Forward


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class AlwaysDropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = functional.dropout(self.inner(x), 0.5)
        return answer


class Counting(nn.Module):
    calls: Tensor

    def __init__(self, *, shows: bool) -> None:
        super().__init__()
        self.shows = shows
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls if self.shows else x


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.last += 1.0
        return x + self.last


def check(model: nn.Module) -> list[str]:
    model.eval()
    x = torch.ones(64).numpy()
    return stability.check(FirstValues(model), lambda: Forward(model, ["x"], 1, None).run({"x": x}))


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Noisy(), r"draws random numbers \(aten.randn_like in Noisy\)"),
        (nn.Sequential(nn.Identity(), Noisy()), r"draws random numbers \(aten.randn_like in 1\)"),
        (AlwaysDropping(), r"random numbers \(aten.(native_)?dropout.*training=self.training"),
        (Counting(shows=True), "forward changes the buffer 'calls'"),
        (Remembering(), "keeps something from one call to the next"),
    ],
)
def test_a_model_that_answers_differently_each_time_is_refused_with_the_cause(model: nn.Module, complaint: str) -> None:
    with pytest.raises(ConversionError, match=f"answers differently each time.*{complaint}"):
        check(model)


def test_a_buffer_that_changes_without_a_consequence_is_a_note() -> None:
    assert check(Counting(shows=False)) == [
        "forward changes the buffer 'calls': the published model always has its first value"
    ]


def test_a_stable_model_needs_no_note() -> None:
    assert check(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(64).eval(), nn.Identity())[0]) == []
