"""A text classifier with torch's own `nn.TransformerEncoder` and a boolean mask, with seeded random weights.

    turnout-export examples/models/encoder.py:encoder --name encoder --repository models --task text-classification

`padding` is true where an id doesn't count, the opposite of BERT's `attention_mask`.
"""

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """ids (batch, seq) int64 and padding (batch, seq) bool -> logits (batch, classes) float32."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.classifier = nn.Linear(width, classes)

    def forward(self, ids: Tensor, padding: Tensor) -> dict[str, Tensor]:
        states = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        return {"logits": self.classifier(states[:, 0])}


def encoder(vocabulary: int = 20000, width: int = 256, layers: int = 4, heads: int = 4, classes: int = 2) -> nn.Module:
    """The model with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Encoder(vocabulary, width, layers, heads, classes).eval()
