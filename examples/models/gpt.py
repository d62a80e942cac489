"""A GPT-style decoder in plain PyTorch (Radford et al. 2019), with seeded random weights.

    turnout-export examples/models/gpt.py:gpt --name gpt --repository models --task causal-lm

It computes the logits of every position at once, without a cache of earlier ones.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """x (batch, seq, width) -> (batch, seq, width); each position sees itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.projection = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.before_attention(x))
        answer: Tensor = x + self.mlp(self.before_mlp(x))
        return answer

    def _attend(self, x: Tensor) -> Tensor:
        batch, seq, width = x.shape
        split = self.projection(x).view(batch, seq, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, seq, width / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        answer: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, seq, width))
        return answer


class Gpt(nn.Module):
    """input_ids (batch, seq) int64, at most `positions` long -> logits (batch, seq, vocabulary) float32."""

    def __init__(self, vocabulary: int, positions: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            x = block(x)
        return {"logits": functional.linear(self.norm(x), self.words.weight)}  # the embedding is tied to the output


def gpt(vocabulary: int = 50257, positions: int = 1024, layers: int = 12, width: int = 768, heads: int = 12) -> nn.Module:
    """The model with the same random weights every time; by default of the size of GPT-2."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Gpt(vocabulary, positions, layers, width, heads).eval()
