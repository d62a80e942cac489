"""Minimal ONNX models, and the repositories that tests serve."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: ONNX's element type of each datatype.
ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}

Shape = Sequence[int | str]
Tensor = tuple[int, Shape]
#: The element types and shapes of tensors, by name.
Tensors = Mapping[str, Tensor]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A model with these nodes, validated by the ONNX checker."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(built, full_check=True)
    return built


def identity(datatype: str, shape: Shape) -> onnx.ModelProto:
    """OUTPUT = INPUT."""
    tensor = (ELEMENT_TYPES[datatype], shape)
    return model([helper.make_node("Identity", ["INPUT"], ["OUTPUT"])], {"INPUT": tensor}, {"OUTPUT": tensor})


def add_sub(width: int = 16) -> onnx.ModelProto:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1; all are float32 (batch, width)."""
    tensor = (TensorProto.FLOAT, ("batch", width))
    return model(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        {"INPUT0": tensor, "INPUT1": tensor},
        {"OUTPUT0": tensor, "OUTPUT1": tensor},
    )


def add_constant(value: float) -> onnx.ModelProto:
    """y = x + value; float32 (batch, n)."""
    tensor = (TensorProto.FLOAT, ("batch", "n"))
    constants = {"value": np.array(value, np.float32)}
    return model([helper.make_node("Add", ["x", "value"], ["y"])], {"x": tensor}, {"y": tensor}, constants)


def mlp(sizes: Sequence[int] = (8, 32, 4)) -> onnx.ModelProto:
    """y = multilayer perceptron of x with ReLU; float32 (batch, sizes[0]) -> (batch, sizes[-1])."""
    generator = np.random.default_rng(0)
    nodes, constants, at = [], {}, "x"
    for layer, (before, after) in enumerate(pairwise(sizes)):
        constants[f"w{layer}"] = generator.standard_normal((before, after)).astype(np.float32)
        constants[f"b{layer}"] = generator.standard_normal(after).astype(np.float32)
        last = layer == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [at, f"w{layer}", f"b{layer}"], ["y" if last else f"h{layer}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [at := f"r{layer}"]))
    x, y = (TensorProto.FLOAT, ("batch", sizes[0])), (TensorProto.FLOAT, ("batch", sizes[-1]))
    return model(nodes, {"x": x}, {"y": y}, constants)


def convolutions(layers: int = 4, channels: int = 32, size: int = 32) -> onnx.ModelProto:
    """y = the mean of x over the image, after 3x3 convolutions with ReLU; float32 (batch, 3, size, size), (batch, channels)."""
    generator = np.random.default_rng(0)
    nodes, at = [], "x"
    constants: dict[str, np.ndarray] = {}
    for layer in range(layers):
        before = channels if layer else 3
        weights = generator.standard_normal((channels, before, 3, 3)) / np.sqrt(9 * before)
        constants |= {f"w{layer}": weights.astype(np.float32), f"b{layer}": np.full(channels, 0.1, np.float32)}
        nodes.append(helper.make_node("Conv", [at, f"w{layer}", f"b{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [at := f"r{layer}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["y"]))
    x, y = (TensorProto.FLOAT, ("batch", 3, size, size)), (TensorProto.FLOAT, ("batch", channels))
    return model(nodes, {"x": x}, {"y": y}, constants)


def gather() -> onnx.ModelProto:
    """y = [10, 20, 30, 40][x]; int64 (batch,). A run with an index out of range fails."""
    tensor: Tensor = (TensorProto.INT64, ("batch",))
    constants = {"table": np.array([10, 20, 30, 40])}
    return model([helper.make_node("Gather", ["table", "x"], ["y"])], {"x": tensor}, {"y": tensor}, constants)


def reshape() -> onnx.ModelProto:
    """y = x as a matrix of the given shape. A run with a shape of another size fails."""
    inputs: Tensors = {"x": (TensorProto.FLOAT, ("n",)), "shape": (TensorProto.INT64, (2,))}
    return model([helper.make_node("Reshape", ["x", "shape"], ["y"])], inputs, {"y": (TensorProto.FLOAT, ("a", "b"))})


def slice_by_inputs() -> onnx.ModelProto:
    """y = x[start:end]. A run with more ends than starts fails, for a reason that ONNX Runtime doesn't blame on the values."""
    integers: Tensor = (TensorProto.INT64, ("k",))
    inputs: Tensors = {"x": (TensorProto.FLOAT, ("n",)), "start": (TensorProto.INT64, (1,)), "end": integers}
    return model([helper.make_node("Slice", ["x", "start", "end"], ["y"])], inputs, {"y": (TensorProto.FLOAT, ("m",))})


def not_utf8() -> onnx.ModelProto:
    """y = two bytes that aren't UTF-8, whatever x is."""
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"\xff\xfe"])  # type: ignore[list-item]  # texts are bytes
    node = helper.make_node("Constant", [], ["y"], value=text)
    unused = helper.make_node("Identity", ["x"], ["z"])
    tensor: Tensor = (TensorProto.FLOAT, ("n",))
    return model([node, unused], {"x": tensor}, {"y": (TensorProto.STRING, (1,)), "z": tensor})


def fill() -> onnx.ModelProto:
    """y = zeros of the given shape, of any size; float32."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["y"])]
    return model(nodes, {"shape": (TensorProto.INT64, (2,))}, {"y": (TensorProto.FLOAT, ("a", "b"))})


def divide(datatype: str = "INT32", operator: str = "Div") -> onnx.ModelProto:
    """c = a / b, or the remainder; integers (batch,). The smallest integer divided by -1 ends ONNX Runtime's process."""
    tensor: Tensor = (ELEMENT_TYPES[datatype], ("batch",))
    return model([helper.make_node(operator, ["a", "b"], ["c"])], {"a": tensor, "b": tensor}, {"c": tensor})


#: The least iterations of a loop, about two milliseconds: too slow for a server to run it inline.
MIN_ITERATIONS = 2000


def countdown() -> onnx.ModelProto:
    """y = n after n + MIN_ITERATIONS iterations of a loop; int64 scalars. The input determines the duration."""
    constants = {
        "step": np.array(1),
        "minimum": np.array(MIN_ITERATIONS),
        "start": np.array(-MIN_ITERATIONS),
        "true": np.array(True),
    }
    tensor = (TensorProto.INT64, ())
    nodes = [
        helper.make_node("Add", ["n", "minimum"], ["iterations"]),
        helper.make_node("Loop", ["iterations", "true", "start"], ["y"], body=_adding_step(tensor)),
    ]
    return model(nodes, {"n": tensor}, {"y": tensor}, constants)


def lazy(iterations: int = MIN_ITERATIONS) -> onnx.ModelProto:
    """y = x after this many iterations of a loop; float32 (batch, n)."""
    constants = {"step": np.array(0, np.float32), "iterations": np.array(iterations), "true": np.array(True)}
    tensor: Tensor = (TensorProto.FLOAT, ("batch", "n"))
    loop = helper.make_node("Loop", ["iterations", "true", "x"], ["y"], body=_adding_step(tensor))
    return model([loop], {"x": tensor}, {"y": tensor}, constants)


def _adding_step(state: Tensor) -> onnx.GraphProto:
    """The body of a loop that adds the outer graph's `step` to the state."""

    def scalar(name: str, element: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, [])

    return helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["next_condition"]),
            helper.make_node("Add", ["before", "step"], ["after"]),
        ],
        "body",
        [
            scalar("iteration", TensorProto.INT64),
            scalar("condition", TensorProto.BOOL),
            helper.make_tensor_value_info("before", *state),
        ],
        [scalar("next_condition", TensorProto.BOOL), helper.make_tensor_value_info("after", *state)],
    )


def save(root: Path, name: str, content: onnx.ModelProto | bytes, version: int = 1, configuration: str | None = None) -> None:
    """Writes a version of a model, and optionally its config.pbtxt, into the repository at `root`."""
    directory = root / name / str(version)
    directory.mkdir(parents=True)
    data = content if isinstance(content, bytes) else content.SerializeToString()
    (directory / "model.onnx").write_bytes(data)
    if configuration is not None:
        (root / name / "config.pbtxt").write_text(configuration)


def save_zoo(root: Path) -> None:
    """Writes the repository that the wire tests share, with a model of each kind."""
    for datatype in ELEMENT_TYPES:
        name = datatype.lower()
        save(root, f"{name}_batch", identity(datatype, ("batch", "n")), configuration="max_batch_size: 8")
        save(root, f"{name}_plain", identity(datatype, ("m", "n")), configuration="max_batch_size: 0")
        save(root, f"{name}_scalar", identity(datatype, ()))
    save(root, "add_sub", add_sub(), configuration="max_batch_size: 8")
    save(root, "undescribed", mlp())
    save(root, "versions", add_constant(1), version=1, configuration="version_policy { all {} }")
    save(root, "versions", add_constant(2), version=2)
    save(root, "gather", gather())
    save(root, "reshape", reshape())
    save(root, "slice", slice_by_inputs())
    save(root, "divide", divide())
    save(root, "fill", fill())
    save(root, "not_utf8", not_utf8())
    save(root, "slow", countdown())
    save(root, "lazy", lazy(), configuration="max_batch_size: 8")
    save(root, "broken", b"this is no model")
    save(root, "half_broken", add_constant(1), version=1, configuration="version_policy { all {} }")
    save(root, "half_broken", b"", version=2)
    save(root, "empty", add_constant(1))
    (root / "empty" / "1").rename(root / "empty" / "first")
