"""Well-known networks with random weights as ONNX files: `python examples/networks.py models [NAME...]`.

They cost as much to run as trained ones, so they can measure speed where no weights can be downloaded. Needs onnx and numpy,
and takes seconds; existing files are left as they are.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Shape = Sequence[Any]  # sizes, and names of free ones
OPSET = 17
#: Enough rows in a run to fill a GPU.
MAX_BATCH = 256


class Network:
    """A graph that grows by layers. Each layer takes the names of tensors and returns that of its output."""

    def __init__(self, seed: int) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._chance = np.random.default_rng(seed)
        self.channels: dict[str, int] = {}

    def node(self, kind: str, *inputs: str, channels: int = 0, outputs: int = 1, **attributes: Any) -> str:
        """One operator; its first output, with as many channels as its first input unless stated."""
        name = f"{kind.lower()}{len(self._nodes)}"
        names = [name, *(f"{name}_{place}" for place in range(1, outputs))]
        self._nodes.append(helper.make_node(kind, inputs, names, name, **attributes))
        self.channels[name] = channels or self.channels.get(inputs[0], 0)
        return name

    def constant(self, value: NDArray[np.generic]) -> str:
        """A weight."""
        self._weights.append(numpy_helper.from_array(value, f"weight{len(self._weights)}"))
        return str(self._weights[-1].name)

    def random(self, *shape: int, scale: float) -> str:
        """A weight of normally distributed float32."""
        return self.constant((self._chance.standard_normal(shape) * scale).astype(np.float32))

    def convolution(
        self, x: str, channels: int, size: int | tuple[int, int] = 1, stride: int = 1, *, pad: bool = True, relu: bool = True,
        gain: float = 1.0,
    ) -> str:  # fmt: skip
        """A convolution with its normalisation folded into bias and weights, as an exporter leaves it."""
        height, width = size if isinstance(size, tuple) else (size, size)
        before = self.channels[x]
        weight = self.random(channels, before, height, width, scale=gain * (2 / (before * height * width)) ** 0.5)
        bias = self.random(channels, scale=0.01)
        pads = [height // 2, width // 2] * 2 if pad else [0] * 4
        out = self.node(
            "Conv", x, weight, bias, channels=channels, kernel_shape=[height, width], strides=[stride] * 2, pads=pads
        )  # fmt: skip
        return self.node("Relu", out) if relu else out

    def linear(self, x: str, before: int, after: int) -> str:
        """A linear layer: (..., before) -> (..., after)."""
        product = self.node("MatMul", x, self.random(before, after, scale=before**-0.5))
        return self.node("Add", product, self.constant(np.zeros(after, np.float32)))

    def pooled(self, kind: str, x: str, size: int, stride: int, pad: int = 0) -> str:
        """A pooling layer."""
        return self.node(kind, x, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def classifier(self, x: str, classes: int = 1000) -> str:
        """A classifier: (batch, channels, h, w) -> (batch, classes)."""
        channels = self.channels[x]
        return self.linear(self.node("Flatten", self.node("GlobalAveragePool", x)), channels, classes)

    def model(self, inputs: Mapping[str, tuple[int, Shape]], output: str, name: str, shape: Shape) -> onnx.ModelProto:
        """The model; inputs by name with their ONNX type and shape, and its one output called `name`."""
        self._nodes.append(helper.make_node("Identity", [output], [name]))
        given = [helper.make_tensor_value_info(each, kind, size) for each, (kind, size) in inputs.items()]
        wanted = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self._nodes, "network", given, wanted, self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def resnet50() -> onnx.ModelProto:
    """ResNet-50 (He et al. 2015, stride in the 3x3 convolution): image (batch, 3, 224, 224) -> logits (batch, 1000)."""
    net = Network(50)
    net.channels["image"] = 3
    x = net.pooled("MaxPool", net.convolution("image", 64, 7, 2), 3, 2, 1)
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for place in range(count):
            step = stride if place == 0 else 1
            y = net.convolution(net.convolution(x, width), width, 3, step)
            y = net.convolution(y, 4 * width, relu=False, gain=0.3)  # untrained sums would grow with each block
            shortcut = net.convolution(x, 4 * width, 1, step, relu=False) if place == 0 else x
            x = net.node("Relu", net.node("Add", y, shortcut))
    return net.model({"image": (onnx.TensorProto.FLOAT, ["batch", 3, 224, 224])}, net.classifier(x), "logits", ["batch", 1000])


def inception_v3() -> onnx.ModelProto:
    """Inception-v3 (Szegedy et al. 2015) without auxiliary classifier: image (batch, 3, 299, 299) -> logits (batch, 1000)."""
    net = Network(3)
    net.channels["image"] = 3
    conv = net.convolution
    x = conv(conv(conv("image", 32, 3, 2, pad=False), 32, 3, pad=False), 64, 3)
    x = net.pooled("MaxPool", x, 3, 2)
    x = net.pooled("MaxPool", conv(conv(x, 80, 1, pad=False), 192, 3, pad=False), 3, 2)

    def joined(*parts: str) -> str:
        return net.node("Concat", *parts, axis=1, channels=sum(net.channels[part] for part in parts))

    def averaged(x: str, channels: int) -> str:
        return conv(net.pooled("AveragePool", x, 3, 1, 1), channels)

    for pool in (32, 64, 64):
        x = joined(conv(x, 64), conv(conv(x, 48), 64, 5), conv(conv(conv(x, 64), 96, 3), 96, 3), averaged(x, pool))
    x = joined(
        conv(x, 384, 3, 2, pad=False), conv(conv(conv(x, 64), 96, 3), 96, 3, 2, pad=False), net.pooled("MaxPool", x, 3, 2)
    )
    for middle in (128, 160, 160, 192):
        double = conv(conv(conv(conv(conv(x, middle), middle, (7, 1)), middle, (1, 7)), middle, (7, 1)), 192, (1, 7))
        single = conv(conv(conv(x, middle), middle, (1, 7)), 192, (7, 1))
        x = joined(conv(x, 192), single, double, averaged(x, 192))
    sevens = conv(conv(conv(x, 192), 192, (1, 7)), 192, (7, 1))
    x = joined(conv(conv(x, 192), 320, 3, 2, pad=False), conv(sevens, 192, 3, 2, pad=False), net.pooled("MaxPool", x, 3, 2))
    for _ in range(2):
        one, two = conv(x, 384), conv(conv(x, 448), 384, 3)
        wide = [conv(each, 384, size) for each in (one, two) for size in ((1, 3), (3, 1))]
        x = joined(conv(x, 320), *wide, averaged(x, 192))
    return net.model({"image": (onnx.TensorProto.FLOAT, ["batch", 3, 299, 299])}, net.classifier(x), "logits", ["batch", 1000])


def lstm(features: int = 128, hidden: int = 512, layers: int = 2, steps: int = 64, classes: int = 50) -> onnx.ModelProto:
    """An LSTM over a sequence, batch first: sequence (batch, 64, 128) -> logits (batch, 50)."""
    net = Network(64)
    x, width = net.node("Transpose", "sequence", perm=[1, 0, 2]), features
    for _ in range(layers):
        weights = [net.random(1, 4 * hidden, each, scale=hidden**-0.5) for each in (width, hidden)]
        x = net.node("LSTM", x, *weights, hidden_size=hidden)  # (steps, 1, batch, hidden)
        x, width = net.node("Squeeze", x, net.constant(np.array([1], np.int64))), hidden
    last = net.node("Gather", x, net.constant(np.array(steps - 1, np.int64)), axis=0)  # (batch, hidden)
    inputs = {"sequence": (onnx.TensorProto.FLOAT, ["batch", steps, features])}
    return net.model(inputs, net.linear(last, hidden, classes), "logits", ["batch", classes])


def encoder(layers: int = 6, width: int = 384, heads: int = 12, tokens: int = 128, words: int = 8000) -> onnx.ModelProto:
    """A BERT-style encoder of MiniLM's size: tokens (batch, 128) int64 -> embedding (batch, 384), the mean over its tokens."""
    net = Network(12)

    def ints(*values: int) -> str:
        return net.constant(np.array(values, np.int64))

    def normed(x: str) -> str:
        scale, shift = net.constant(np.ones(width, np.float32)), net.constant(np.zeros(width, np.float32))
        return net.node("LayerNormalization", x, scale, shift, axis=-1)

    def split(x: str, order: Sequence[int]) -> str:
        shape = net.node("Reshape", x, ints(0, tokens, heads, width // heads))
        return net.node("Transpose", shape, perm=order)

    def attention(x: str) -> str:
        query, key, value = (split(net.linear(x, width, width), order) for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
        scaled = net.node("Mul", net.node("MatMul", query, key), net.constant(np.array((width // heads) ** -0.5, np.float32)))
        mixed = net.node("Transpose", net.node("MatMul", net.node("Softmax", scaled, axis=-1), value), perm=[0, 2, 1, 3])
        return net.linear(net.node("Reshape", mixed, ints(0, tokens, width)), width, width)

    def feed_forward(x: str) -> str:
        wide = net.linear(x, width, 4 * width)
        half = net.node("Erf", net.node("Mul", wide, net.constant(np.array(2**-0.5, np.float32))))
        gelu = net.node("Mul", net.node("Mul", wide, net.node("Add", half, net.constant(np.array(1, np.float32)))),
                        net.constant(np.array(0.5, np.float32)))  # fmt: skip
        return net.linear(gelu, 4 * width, width)

    rows = net.node("Gather", net.random(words, width, scale=0.5), "tokens", axis=0)
    x = normed(net.node("Add", rows, net.random(tokens, width, scale=0.5)))
    for _ in range(layers):
        x = normed(net.node("Add", x, attention(x)))
        x = normed(net.node("Add", x, feed_forward(x)))
    mean = net.node("ReduceMean", x, axes=[1], keepdims=0)
    return net.model({"tokens": (onnx.TensorProto.INT64, ["batch", tokens])}, mean, "embedding", ["batch", width])


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet50": resnet50, "inception-v3": inception_v3, "lstm": lstm, "encoder": encoder,
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Writes the networks of these names, all by default, into a model repository."""
    if not arguments or any(name not in NETWORKS for name in arguments[1:]):
        sys.exit(f"usage: python examples/networks.py REPOSITORY [{'|'.join(NETWORKS)}]...")
    root, names = Path(arguments[0]), arguments[1:] or list(NETWORKS)
    for name in names:
        path = root / name / "1" / "model.onnx"
        if path.exists():
            print(f"{path}: there already")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        (root / name / "config.pbtxt").write_text(f"max_batch_size: {MAX_BATCH}\n")
        unfinished = path.with_suffix(".part")
        onnx.save(NETWORKS[name](), unfinished)
        unfinished.replace(path)
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
