"""What forward reads while torch's older exporter records it, without writing a file."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.jit._trace import _get_trace_graph
from torch.nn.utils.rnn import pack_padded_sequence
from turnout_exporter.pytorch.value_reads import ValueReads

X, N = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2, 1])
Reader = Callable[[nn.Module, Tensor, Tensor], object]


class Reading(nn.Module):
    """Calls a function, and returns x (batch, 2) float32."""

    def __init__(self, read: Reader) -> None:
        super().__init__()
        self.read = read
        self.layer = nn.Linear(2, 2)
        self.lstm = nn.LSTM(1, 1, batch_first=True)
        self.register_buffer("flag", torch.ones(()))

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        self.read(self, x, n)
        answer: Tensor = self.layer(x)
        return answer


def places(read: Reader) -> list[str]:
    reads = ValueReads(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own warnings of the same
        with reads:
            _get_trace_graph(Reading(read).eval(), (X, N))  # type: ignore[no-untyped-call]
    return list(reads.places)


@pytest.mark.parametrize(
    "read",
    [
        lambda model, x, n: bool(x.max() > 3),
        lambda model, x, n: x.sum().item() > 3,
        lambda model, x, n: int(n[0]),
        lambda model, x, n: float(model.layer(x).max()),
        lambda model, x, n: n.tolist(),
        lambda model, x, n: n.cpu().numpy(),
        lambda model, x, n: 2 in n,
        lambda model, x, n: torch.equal(x, x + 1),
        lambda model, x, n: bool(x.new_zeros(2).add(x[0]).max() > 0),
        lambda model, x, n: bool(x.mul_(2).sum() > 0),
    ],
)
def test_a_value_of_an_input_that_is_read_is_named_with_its_line(read: Reader) -> None:
    (place,) = places(read)
    assert place.startswith(" (test_value_reads.py:")
    assert "lambda model, x, n:" in place


@pytest.mark.parametrize(
    "read",
    [
        lambda model, x, n: x.shape[0] > 4 or len(x) > 4 or x.numel() > 9,
        lambda model, x, n: x.view(int(x.shape[0]), -1),
        lambda model, x, n: bool(torch.arange(x.shape[1]).max() > 4),
        lambda model, x, n: bool(torch.zeros_like(x).sum() > 0),
        lambda model, x, n: bool(model.flag) and bool(model.layer.weight.sum() > 100),
        lambda model, x, n: bool(torch.ones(2).sum() > 1),
        lambda model, x, n: np.zeros(2).tolist(),
        lambda model, x, n: model.lstm(pack_padded_sequence(x[..., None], n.cpu(), batch_first=True)),
    ],
)
def test_sizes_weights_constants_and_what_libraries_read_do_not_count(read: Reader) -> None:
    assert places(read) == []


def test_without_a_recording_nothing_is_noted() -> None:
    with ValueReads(1) as reads:
        assert X.max() > 3
    assert not reads.places
