"""A BERT-style text classifier in plain PyTorch (Devlin et al. 2018), with seeded random weights.

    turnout-export examples/models/bert.py:bert --name bert --repository models --task text-classification

Padding is masked: a row's answer doesn't depend on the ids where its mask is 0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """x (batch, seq, width) and an additive mask (batch, 1, 1, seq) -> (batch, seq, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projection = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, seq, width = x.shape
        split = self.projection(x).view(batch, seq, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, seq, width / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        answer: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, seq, width))
        return answer


class Layer(nn.Module):
    """x (batch, seq, width) and an additive mask -> (batch, seq, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attended = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.transformed = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attended(x + self.attention(x, mask))
        answer: Tensor = self.transformed(x + self.mlp(x))
        return answer


class Bert(nn.Module):
    """input_ids and attention_mask (batch, seq) int64, at most `positions` long -> logits (batch, classes) float32."""

    def __init__(self, vocabulary: int, positions: int, layers: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.embedded = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, classes))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.embedded(self.words(input_ids) + self.positions(places))
        ignored = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, ignored)
        return {"logits": self.pooler(x[:, 0])}


def bert(
    vocabulary: int = 30522, positions: int = 512, layers: int = 12, width: int = 768, heads: int = 12, classes: int = 2
) -> nn.Module:
    """The model with the same random weights every time; by default of the size of BERT-base."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        return Bert(vocabulary, positions, layers, width, heads, classes).eval()
