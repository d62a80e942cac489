from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from turnout_exporter.pytorch.build import fingerprint
from turnout_exporter.pytorch.first_values import FirstValues

Change = Callable[["Changing"], object]


class Changing(nn.Module):
    """x (batch, 3) float32 -> (batch, 3); has two layers, a counter, a bound that isn't a number, and a cache."""

    calls: Tensor
    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("bound", torch.tensor(float("nan")))
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.norm(self.layer(x))
        return answer


def count_in_a_new_tensor(model: Changing) -> None:
    model.calls = model.calls + 1


CHANGES: dict[str, Change] = {
    "the buffer 'calls'": lambda model: model.calls.add_(1),
    "the buffer 'norm.running_mean'": lambda model: model.train()(torch.ones(2, 3)),
    "the weight 'layer.weight'": lambda model: model.layer.weight.mul_(2),
    "the weight 'layer.bias'": lambda model: model.layer.bias.data.fill_(7),
}


@pytest.mark.parametrize(("what", "change"), [*CHANGES.items(), ("the buffer 'calls'", count_in_a_new_tensor)])
def test_what_forward_changes_is_named_and_gets_its_first_value_back_each_time(what: str, change: Change) -> None:
    model = Changing()
    before, first_values = fingerprint(model), FirstValues(model)
    for _ in range(3):
        with torch.inference_mode(), first_values.restored():
            change(model)
            assert what in first_values.changes()
        assert fingerprint(model) == before
    assert first_values.changes() == []


def test_what_changes_in_a_run_that_fails_is_restored_as_well() -> None:
    model = Changing()
    before, first_values = fingerprint(model), FirstValues(model)
    with pytest.raises(RuntimeError, match="shape"), torch.no_grad(), first_values.restored():
        model(torch.ones(int(model.calls.add_(1)), model.layer.weight.zero_().numel()))
    assert fingerprint(model) == before


def test_a_cache_that_grew_is_left_alone() -> None:
    model = Changing()
    with FirstValues(model).restored():
        model.cache = torch.ones(5)
    assert model.cache.tolist() == [1.0] * 5


def test_the_copies_of_weights_that_the_first_run_leaves_alone_are_let_go() -> None:
    model = Changing()
    first_values = FirstValues(model)
    with torch.inference_mode():
        with first_values.restored():
            model.layer.bias.zero_()
        with first_values.restored():
            model.layer.bias.fill_(1)
            model.layer.weight.fill_(1)
            model.calls.add_(1)
            assert first_values.changes() == ["the weight 'layer.bias'", "the buffer 'calls'"]
