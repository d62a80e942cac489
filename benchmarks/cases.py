"""The models of the benchmarks, with one request for each and the numbers of clients that send it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from turnout_loadtests.payloads import infer_request
from turnout_proto import inference_pb2 as pb

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """One model under load.

    Attributes:
        build: makes the model, the same every time.
        inputs: the inputs of one request, as (name, shape without the batch axis).
        clients: the numbers of requests in flight; each is one measurement.
        streamed: the same for requests over one stream, where the server has streams.
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    clients: tuple[int, ...]
    streamed: tuple[int, ...] = ()

    def tensors(self) -> dict[str, Array]:
        """The inputs of one request by name, each (1, ...) float32."""
        generator = np.random.default_rng(1)
        return {name: generator.standard_normal((1, *shape)).astype(np.float32) for name, shape in self.inputs}

    def request(self) -> pb.ModelInferRequest:
        """The same as a message."""
        return infer_request(self.name, self.tensors())

    def publish(self, root: Path) -> Path:
        """Writes the model into a repository under `root`; returns the ONNX file."""
        directory = root / self.name / "1"
        directory.mkdir(parents=True)
        (root / self.name / "config.pbtxt").write_text("max_batch_size: 32\n")
        onnx.save(self.build(), directory / "model.onnx")
        return directory / "model.onnx"


class _Graph:
    """Collects nodes and seeded random weights; methods return the name of what they added."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        return self.constant((self._random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32))

    def constant(self, value: Array | np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def model(self, inputs: dict[str, Sequence[int]], outputs: dict[str, tuple[str, Sequence[int]]]) -> onnx.ModelProto:
        """The model; `outputs` has, by output name, the node that it comes from and its shape without the batch axis."""
        nodes = [*self.nodes, *(helper.make_node("Identity", [made], [name]) for name, (made, _) in outputs.items())]
        graph = helper.make_graph(
            nodes,
            "benchmark",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *shape]) for n, (_, shape) in outputs.items()],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def add_sub() -> onnx.ModelProto:
    """Two inputs, their sum and their difference: almost no computation."""
    graph = _Graph()
    total, difference = graph.node("Add", "INPUT0", "INPUT1"), graph.node("Sub", "INPUT0", "INPUT1")
    return graph.model({"INPUT0": [16], "INPUT1": [16]}, {"OUTPUT0": (total, [16]), "OUTPUT1": (difference, [16])})


def mlp() -> onnx.ModelProto:
    """Three layers of 256 to 256 with ReLU between."""
    graph, at = _Graph(), "x"
    for _ in range(3):
        at = graph.node("Relu", graph.node("MatMul", at, graph.weight(256, 256)))
    return graph.model({"x": [256]}, {"y": (at, [256])})


def identity() -> onnx.ModelProto:
    """602 KB in, the same 602 KB out: transport alone."""
    return _Graph().model({"x": [3, 224, 224]}, {"y": ("x", [3, 224, 224])})


def resnet50() -> onnx.ModelProto:
    """ResNet-50, its normalisation folded into the convolutions as exporters do."""
    graph = _Graph()

    def convolution(x: str, channels_in: int, channels: int, kernel: int, stride: int = 1) -> str:
        return graph.node(
            "Conv",
            x,
            graph.weight(channels, channels_in, kernel, kernel),
            graph.weight(channels),
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
        )

    at = graph.node("Relu", convolution("x", 3, 64, 7, 2))
    at = graph.node("MaxPool", at, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = graph.node("Relu", convolution(at, channels, width, 1))
            inner = graph.node("Relu", convolution(inner, width, width, 3, step))
            inner = convolution(inner, width, 4 * width, 1)
            shortcut = convolution(at, channels, 4 * width, 1, step) if block == 0 else at
            at, channels = graph.node("Relu", graph.node("Add", inner, shortcut)), 4 * width
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", at))
    return graph.model({"x": [3, 224, 224]}, {"y": (graph.node("MatMul", pooled, graph.weight(2048, 1000)), [1000])})


def encoder(layers: int = 6, width: int = 384, heads: int = 12, length: int = 128) -> onnx.ModelProto:
    """A BERT-shaped encoder of MiniLM's size. Its inputs are embeddings, not tokens: every model here takes float32."""
    graph, at = _Graph(), "x"
    split, merged = (graph.constant(np.array(shape)) for shape in ([0, length, heads, width // heads], [0, length, width]))
    scale = graph.constant(np.float32(1 / (width // heads) ** 0.5))

    def normalized(x: str) -> str:
        ones, zeros = graph.constant(np.ones(width, np.float32)), graph.constant(np.zeros(width, np.float32))
        return graph.node("LayerNormalization", x, ones, zeros)

    def dense(x: str, size_in: int, size: int) -> str:
        return graph.node("Add", graph.node("MatMul", x, graph.weight(size_in, size)), graph.weight(size))

    def headed(x: str, order: list[int]) -> str:
        return graph.node("Transpose", graph.node("Reshape", dense(x, width, width), split), perm=order)

    for _ in range(layers):
        query, key, value = headed(at, [0, 2, 1, 3]), headed(at, [0, 2, 3, 1]), headed(at, [0, 2, 1, 3])
        attention = graph.node("Softmax", graph.node("Mul", graph.node("MatMul", query, key), scale))
        mixed = graph.node("Transpose", graph.node("MatMul", attention, value), perm=[0, 2, 1, 3])
        at = normalized(graph.node("Add", at, dense(graph.node("Reshape", mixed, merged), width, width)))
        inner = dense(at, width, 4 * width)
        gate = graph.node("Sigmoid", graph.node("Mul", inner, graph.constant(np.float32(1.702))))  # approximates GELU
        at = normalized(graph.node("Add", at, dense(graph.node("Mul", inner, gate), 4 * width, width)))
    return graph.model({"x": [length, width]}, {"y": (at, [length, width])})


IMAGE = (("x", (3, 224, 224)),)
CASES = (
    Case("add_sub", add_sub, (("INPUT0", (16,)), ("INPUT1", (16,))), (1, 16, 64), (1, 16)),
    Case("mlp", mlp, (("x", (256,)),), (1, 16)),
    Case("identity", identity, IMAGE, (1, 8)),
    Case("resnet50", resnet50, IMAGE, (1, 4)),
    Case("encoder", encoder, (("x", (128, 384)),), (1, 4)),
)
