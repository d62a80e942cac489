"""Text classifiers with recurrent layers in plain PyTorch, over whole rows and over packed ones of different lengths.

turnout-export examples/models/recurrent.py:lstm --name lstm --repository models --task text-classification
turnout-export examples/models/recurrent.py:packed_lstm --name lstm-packed --repository models --task text-classification

torch.onnx can't export packed rows, nor `nn.RNN` with a free length; the exporter takes torch's TorchScript exporter for both.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Lstm(nn.Module):
    """ids (batch, seq) int64 -> logits (batch, classes) float32, from the mean of the states."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        states, _ = self.lstm(self.embedding(ids))
        return {"logits": self.classifier(states.mean(1))}


class PackedLstm(Lstm):
    """ids (batch, seq) and lengths (batch) int64, from 1 to seq -> logits (batch, classes), states (batch, seq, 2 width)."""

    def forward(self, ids: Tensor, lengths: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        rows = pack_padded_sequence(self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed, (hidden, _) = self.lstm(rows)
        # Without total_length the answer would be as long as the longest row, whatever was asked.
        states, _ = pad_packed_sequence(packed, batch_first=True, total_length=ids.shape[1])
        return {"logits": self.classifier(torch.cat([hidden[-2], hidden[-1]], 1)), "states": states}


class Rnn(nn.Module):
    """ids (batch, seq) int64 -> logits (batch, classes) float32, from the last state."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = nn.RNN(width, width, batch_first=True)
        self.classifier = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        states, _ = self.rnn(self.embedding(ids))
        return {"logits": self.classifier(states[:, -1])}


def lstm(vocabulary: int = 20000, width: int = 256, classes: int = 2) -> nn.Module:
    """The classifier of whole rows, with the same random weights every time."""
    return _seeded(Lstm, vocabulary, width, classes)


def packed_lstm(vocabulary: int = 20000, width: int = 256, classes: int = 2) -> nn.Module:
    """The classifier of rows of different lengths, with the same random weights every time."""
    return _seeded(PackedLstm, vocabulary, width, classes)


def rnn(vocabulary: int = 20000, width: int = 256, classes: int = 2) -> nn.Module:
    """The classifier with a plain recurrent layer, with the same random weights every time."""
    return _seeded(Rnn, vocabulary, width, classes)


def _seeded(kind: type[nn.Module], *arguments: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return kind(*arguments).eval()
