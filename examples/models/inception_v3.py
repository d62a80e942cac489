"""Inception-v3 in plain PyTorch (Szegedy et al. 2015, without the auxiliary classifier), with seeded random weights.

    turnout-export examples/models/inception_v3.py:inception_v3 --name inception-v3 --repository models \
        --input 'image=float32[batch,3,299,299]'

Images of other sizes work, too, as the last blocks are averaged.
"""

import torch
from torch import Tensor, nn

Size = int | tuple[int, int]


def convolution(channels_in: int, channels_out: int, size: Size, stride: int = 1, *, padded: bool = True) -> nn.Sequential:
    """A convolution that keeps the size of the image if it is padded, with batch normalization and ReLU."""
    height, width = (size, size) if isinstance(size, int) else size
    padding = (height // 2, width // 2) if padded else (0, 0)
    layer = nn.Conv2d(channels_in, channels_out, (height, width), stride, padding, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out, eps=1e-3), nn.ReLU())


class Branches(nn.Module):
    """x (batch, c, h, w) -> (batch, sum of the branches' channels, h', w')."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _pooled(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, padding=1), convolution(channels_in, channels_out, 1))


def _block35(c: int, pool: int) -> Branches:
    return Branches(
        convolution(c, 64, 1),
        nn.Sequential(convolution(c, 48, 1), convolution(48, 64, 5)),
        nn.Sequential(convolution(c, 64, 1), convolution(64, 96, 3), convolution(96, 96, 3)),
        _pooled(c, pool),
    )


def _block17(c: int, width: int) -> Branches:
    """A 7x7 convolution costs a quarter as 1x7 and 7x1."""
    row, column = (1, 7), (7, 1)
    return Branches(
        convolution(c, 192, 1),
        nn.Sequential(convolution(c, width, 1), convolution(width, width, row), convolution(width, 192, column)),
        nn.Sequential(
            convolution(c, width, 1),
            *(convolution(width, width, size) for size in (column, row, column)),
            convolution(width, 192, row),
        ),
        _pooled(c, 192),
    )


def _block8(c: int) -> Branches:
    def split() -> Branches:
        return Branches(convolution(384, 384, (1, 3)), convolution(384, 384, (3, 1)))

    return Branches(
        convolution(c, 320, 1),
        nn.Sequential(convolution(c, 384, 1), split()),
        nn.Sequential(convolution(c, 448, 1), convolution(448, 384, 3), split()),
        _pooled(c, 192),
    )


class InceptionV3(nn.Module):
    """image (batch, 3, height, width) float32, normalised, at least 75 pixels -> logits (batch, classes) float32."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, 32, 3, 2, padded=False), convolution(32, 32, 3, padded=False), convolution(32, 64, 3),
            nn.MaxPool2d(3, 2), convolution(64, 80, 1), convolution(80, 192, 3, padded=False), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        to17 = Branches(
            convolution(288, 384, 3, 2, padded=False),
            nn.Sequential(convolution(288, 64, 1), convolution(64, 96, 3), convolution(96, 96, 3, 2, padded=False)),
            nn.MaxPool2d(3, 2),
        )
        to8 = Branches(
            nn.Sequential(convolution(768, 192, 1), convolution(192, 320, 3, 2, padded=False)),
            nn.Sequential(
                convolution(768, 192, 1), convolution(192, 192, (1, 7)), convolution(192, 192, (7, 1)),
                convolution(192, 192, 3, 2, padded=False),
            ),
            nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.blocks = nn.Sequential(
            _block35(192, 32), _block35(256, 64), _block35(288, 64), to17,
            *(_block17(768, width) for width in (128, 160, 160, 192)), to8, _block8(1280), _block8(2048),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, classes))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.blocks(self.stem(image)))}


def inception_v3(classes: int = 1000) -> nn.Module:
    """The model with the same random weights every time; its input is `image=float32[batch,3,299,299]`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return InceptionV3(classes).eval()
