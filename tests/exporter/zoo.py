"""Small models for the tests. Each has a property that exporters get wrong, or that decides how it is published."""

from threading import Event

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


class Words(nn.Module):
    """ids (batch, seq) int64 -> a dict of scores (batch, 3) and states (batch, seq, 8), both float32."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 8)
        self.lstm = nn.LSTM(8, 8, layers, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        states, _ = self.lstm(self.embedding(ids))
        return {"scores": self.head(states.amax(1)), "states": states}


class Branch(nn.Module):
    """x (batch, 4) float32 -> (batch, 4); the branch depends on the number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if x.shape[0] > 4 else x + 1


class RareBranch(nn.Module):
    """x (batch, 4) float32 -> (batch, 4); another branch from 17 to 29 rows, at none of the usual sizes."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if 17 <= x.shape[0] <= 29 else x + 1


class ByValue(nn.Module):
    """x (batch, 4) float32 -> (batch, 4); decides by a value that random inputs never have."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 100:
            return 0 * x
        return x + 1


class Linear(nn.Module):
    """x (batch, 4) float32 -> (batch, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x)
        return answer


class Packed(nn.Module):
    """ids (batch, seq) and lengths (batch) int64 -> scores (batch, 3) float32, from the last state of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        rows = pack_padded_sequence(self.embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.lstm(rows)
        return {"scores": self.head(hidden[-1])}


class PackedByValue(Packed):
    """Packed, with a decision by a value that random inputs never have."""

    def forward(self, ids: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        scores = super().forward(ids, lengths)["scores"]
        if scores.abs().max() > 100:
            scores = 0 * scores
        return {"scores": scores}


class Changing(nn.Module):
    """ids (batch, seq) int64 -> (batch, 3) float32; counts its calls, and shortens the rows of its table that it reads."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8, max_norm=0.5)
        self.head = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        answer: Tensor = self.head(self.table(ids).mean(1))
        return answer


class Noisy(nn.Module):
    """x (batch, 4) float32 -> (batch, 4), with other noise each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Endless(nn.Module):
    """x (batch, 4) float32; never answers."""

    def forward(self, x: Tensor) -> Tensor:
        Event().wait()
        return x


class Pooled(nn.Module):
    """Two inputs (batch, 4) by position -> (batch, 4), and (4,), which has no batch axis."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return a + b, {"mean": torch.cat([a, b]).mean(0)}


def broken() -> nn.Module:
    """A factory that raises."""
    raise ValueError("no [such] layer")


def not_a_model() -> str:
    """A factory that doesn't return a model."""
    return "model"
