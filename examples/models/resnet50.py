"""ResNet-50 in plain PyTorch (He et al. 2015, stride in the 3x3 convolution), with seeded random weights.

It costs as much to run as a trained one, so it can measure speed where no weights can be downloaded. Export it with

    turnout-export examples/models/resnet50.py:resnet50 --name resnet50 --repository models \
        --input 'image=float32[batch,3,224,224]'
"""

import torch
from torch import Tensor, nn


def _convolution(channels_in: int, channels_out: int, size: int, stride: int = 1, gain: float = 1.0) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    norm = nn.BatchNorm2d(channels_out)
    nn.init.constant_(norm.weight, gain)
    return nn.Sequential(convolution, norm)


class Bottleneck(nn.Module):
    """x (batch, channels_in, h, w) -> (batch, 4 * width, h / stride, w / stride)."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = 4 * width
        self.residual = nn.Sequential(
            _convolution(channels_in, width, 1), nn.ReLU(),
            _convolution(width, width, 3, stride), nn.ReLU(),
            # Untrained, each of the 16 residual sums would double the variance; a smaller gain keeps it constant.
            _convolution(width, channels_out, 1, gain=0.5),
        )  # fmt: skip
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else _convolution(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class ResNet50(nn.Module):
    """image (batch, 3, height, width) float32, normalised -> logits (batch, 1000) float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        blocks, channels = [], 64
        for width, count, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
            for index in range(count):
                blocks.append(Bottleneck(channels, width, stride if index == 0 else 1))
                channels = 4 * width
        self.blocks = nn.Sequential(*blocks)
        classifier = nn.Linear(channels, 1000)
        nn.init.normal_(classifier.weight, std=0.1)  # large enough that two images get clearly different logits
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.blocks(self.stem(image)))}


def resnet50() -> nn.Module:
    """The model with the same random weights every time; its input is `image=float32[batch,3,224,224]`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(50)
        return ResNet50().eval()
