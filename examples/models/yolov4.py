"""A YOLOv4-style detector in plain PyTorch (Bochkovskiy et al. 2020), with seeded random weights.

CSP backbone, spatial pyramid pooling, path aggregation, three heads; the boxes are decoded in the graph. Overlapping ones are
left in: suppressing them is the client's work, because how many remain depends on values.

    turnout-export examples/models/yolov4.py:yolov4 --name yolov4 --repository models \
        --input 'image=float32[batch,3,416,416]@0:1'
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

#: (width, height) in pixels of the three anchors of each head, for strides of 8, 16 and 32 pixels.
ANCHORS = (
    (8, ((12, 16), (19, 36), (40, 28))),
    (16, ((36, 75), (76, 55), (72, 146))),
    (32, ((142, 110), (192, 243), (459, 401))),
)


def convolution(
    channels_in: int, channels_out: int, size: int, stride: int = 1, activation: type[nn.Module] = nn.LeakyReLU
) -> nn.Sequential:
    """A padded convolution with batch normalization and an activation."""
    layer = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out), activation())


class Residual(nn.Module):
    """x (batch, c, h, w) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = convolution(channels, channels, 3, activation=nn.Mish)
        for module in last.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.3)  # untrained, a chain of sums would grow without limit
        self.layers = nn.Sequential(convolution(channels, channels, 1, activation=nn.Mish), last)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = x + self.layers(x)
        return answer


class CrossStage(nn.Module):
    """x (batch, c, h, w) -> (batch, 2 c, h / 2, w / 2); one half of the channels passes by the residual blocks."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.down = convolution(channels, 2 * channels, 3, 2, nn.Mish)
        self.past = convolution(2 * channels, channels, 1, activation=nn.Mish)
        self.through = nn.Sequential(
            convolution(2 * channels, channels, 1, activation=nn.Mish), *(Residual(channels) for _ in range(blocks))
        )
        self.merge = convolution(2 * channels, 2 * channels, 1, activation=nn.Mish)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        answer: Tensor = self.merge(torch.cat([self.through(x), self.past(x)], 1))
        return answer


class Pyramid(nn.Module):
    """Spatial pyramid pooling: x (batch, c, h, w) -> (batch, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (5, 9, 13))
        self.merge = convolution(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.merge(torch.cat([x, *(pool(x) for pool in self.pools)], 1))
        return answer


class Up(nn.Module):
    """Joins a coarse map (batch, 2 c, h, w) with a fine one (batch, 2 c, 2 h, 2 w) -> (batch, 2 c, 2 h, 2 w)."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.before = convolution(coarse, fine // 2, 1)
        self.beside = convolution(fine, fine // 2, 1)
        self.merge = nn.Sequential(convolution(fine, fine // 2, 1), convolution(fine // 2, fine, 3))

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        larger = functional.interpolate(self.before(coarse), size=fine.shape[-2:])
        answer: Tensor = self.merge(torch.cat([larger, self.beside(fine)], 1))
        return answer


class Down(nn.Module):
    """Joins a fine map (batch, c, 2 h, 2 w) with a coarse one (batch, 2 c, h, w) -> (batch, 2 c, h, w)."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.down = convolution(fine, coarse, 3, 2)
        self.merge = nn.Sequential(convolution(2 * coarse, coarse // 2, 1), convolution(coarse // 2, coarse, 3))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        answer: Tensor = self.merge(torch.cat([self.down(fine), coarse], 1))
        return answer


class Head(nn.Module):
    """A map (batch, c, h, w) -> boxes (batch, 3 h w, 4) in pixels, centre, width and height; scores (batch, 3 h w, classes)."""

    anchors: Tensor

    def __init__(self, channels: int, classes: int, stride: int, anchors: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.classes, self.stride = classes, stride
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32).view(1, 3, 1, 1, 2), persistent=False)
        self.output = nn.Conv2d(channels, 3 * (5 + classes), 1)
        nn.init.normal_(self.output.weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, height, width = x.shape
        raw = self.output(x).view(batch, 3, 5 + self.classes, height, width).permute(0, 1, 3, 4, 2)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cell = torch.stack([columns, rows], -1).to(x.dtype)
        centre = (raw[..., 0:2].sigmoid() + cell) * self.stride
        size = raw[..., 2:4].clamp(max=8.0).exp() * self.anchors
        scores = raw[..., 4:5].sigmoid() * raw[..., 5:].sigmoid()
        return torch.cat([centre, size], -1).reshape(batch, -1, 4), scores.reshape(batch, -1, self.classes)


class YoloV4(nn.Module):
    """image (batch, 3, h, w) float32 in 0..1, sizes multiples of 32 -> boxes (batch, n, 4), scores (batch, n, classes)."""

    def __init__(self, classes: int, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = convolution(3, width, 3, activation=nn.Mish)
        self.stages = nn.ModuleList(CrossStage(width * 2**index, count) for index, count in enumerate(blocks))
        c3, c4, c5 = width * 8, width * 16, width * 32
        self.pyramid = Pyramid(c5)
        self.up4, self.up3 = Up(c5, c4), Up(c4, c3)
        self.down4, self.down5 = Down(c3, c4), Down(c4, c5)
        self.heads = nn.ModuleList(
            Head(channels, classes, stride, anchors) for channels, (stride, anchors) in zip((c3, c4, c5), ANCHORS, strict=True)
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        fine, middle, coarse = maps[-3], maps[-2], self.pyramid(maps[-1])
        middle = self.up4(coarse, middle)
        fine = self.up3(middle, fine)
        middle = self.down4(fine, middle)
        coarse = self.down5(middle, coarse)
        found = [head(x) for head, x in zip(self.heads, (fine, middle, coarse), strict=True)]
        return {"boxes": torch.cat([boxes for boxes, _ in found], 1), "scores": torch.cat([scores for _, scores in found], 1)}


def yolov4(classes: int = 80, width: int = 32, blocks: tuple[int, ...] = (1, 2, 8, 8, 4)) -> nn.Module:
    """The model with the same random weights every time.

    Args:
        width: the channels of the first convolution; 32 in the paper.
        blocks: the residual blocks of the five stages of the backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return YoloV4(classes, width, tuple(blocks)).eval()
