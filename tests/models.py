"""Real ONNX models, as small as they can be, and the repositories that tests serve."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: The protocol's datatypes and ONNX's element type for each.
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
#: By name, the element type and shape.
Tensors = Mapping[str, Tensor]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A checked model of these nodes."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, *what) for name, what in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(built, full_check=True)
    return built


def identity(datatype: str, shape: Shape) -> onnx.ModelProto:
    """OUTPUT = INPUT."""
    what = {"INPUT": (ELEMENT_TYPES[datatype], shape)}, {"OUTPUT": (ELEMENT_TYPES[datatype], shape)}
    return model([helper.make_node("Identity", ["INPUT"], ["OUTPUT"])], *what)


def add_sub(width: int = 16) -> onnx.ModelProto:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1; float32 (batch, width) all four."""
    what = (TensorProto.FLOAT, ("batch", width))
    return model(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        {"INPUT0": what, "INPUT1": what},
        {"OUTPUT0": what, "OUTPUT1": what},
    )


def add_constant(value: float) -> onnx.ModelProto:
    """y = x + value; float32 (batch, n)."""
    what = (TensorProto.FLOAT, ("batch", "n"))
    constants = {"value": np.array(value, np.float32)}
    return model([helper.make_node("Add", ["x", "value"], ["y"])], {"x": what}, {"y": what}, constants)


def mlp(sizes: Sequence[int] = (8, 32, 4)) -> onnx.ModelProto:
    """y = a perceptron of x with ReLU between its layers; float32 (batch, sizes[0]) -> (batch, sizes[-1])."""
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


def gather() -> onnx.ModelProto:
    """y = [10, 20, 30, 40][x]; int64 (batch,). An index out of range fails while it runs."""
    what: Tensor = (TensorProto.INT64, ("batch",))
    constants = {"table": np.array([10, 20, 30, 40])}
    return model([helper.make_node("Gather", ["table", "x"], ["y"])], {"x": what}, {"y": what}, constants)


def reshape() -> onnx.ModelProto:
    """y = x as a matrix of the given shape. One of another size fails while it runs, and not as a wrong input does."""
    inputs: Tensors = {"x": (TensorProto.FLOAT, ("n",)), "shape": (TensorProto.INT64, (2,))}
    return model([helper.make_node("Reshape", ["x", "shape"], ["y"])], inputs, {"y": (TensorProto.FLOAT, ("a", "b"))})


def fill() -> onnx.ModelProto:
    """y = zeros of the given shape, however large; float32."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["y"])]
    return model(nodes, {"shape": (TensorProto.INT64, (2,))}, {"y": (TensorProto.FLOAT, ("a", "b"))})


#: Rounds that a loop takes at least, so that no server takes its model for a tiny one: about two milliseconds.
ROUNDS = 2000


def countdown() -> onnx.ModelProto:
    """y = n after n rounds of a loop, and ROUNDS more; int64 scalars. As slow as its input says."""
    constants = {"step": np.array(1), "more": np.array(ROUNDS), "start": np.array(-ROUNDS), "true": np.array(True)}
    what = (TensorProto.INT64, ())
    nodes = [
        helper.make_node("Add", ["n", "more"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "true", "start"], ["y"], body=_adding_step(what)),
    ]
    return model(nodes, {"n": what}, {"y": what}, constants)


def lazy(rounds: int = ROUNDS) -> onnx.ModelProto:
    """y = x after so many rounds of a loop; float32 (batch, n)."""
    constants = {"step": np.array(0, np.float32), "rounds": np.array(rounds), "true": np.array(True)}
    what: Tensor = (TensorProto.FLOAT, ("batch", "n"))
    loop = helper.make_node("Loop", ["rounds", "true", "x"], ["y"], body=_adding_step(what))
    return model([loop], {"x": what}, {"y": what}, constants)


def _adding_step(what: Tensor) -> onnx.GraphProto:
    """A loop's body that adds the outer graph's `step` to its state."""

    def scalar(name: str, element: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, [])

    return helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Add", ["before", "step"], ["after"])],
        "body",
        [scalar("round", TensorProto.INT64), scalar("going", TensorProto.BOOL), helper.make_tensor_value_info("before", *what)],
        [scalar("on", TensorProto.BOOL), helper.make_tensor_value_info("after", *what)],
    )


def save(root: Path, name: str, content: onnx.ModelProto | bytes, version: int = 1, configuration: str | None = None) -> None:
    """Puts a version of a model, and its config.pbtxt if there is one, into the repository at `root`."""
    directory = root / name / str(version)
    directory.mkdir(parents=True)
    data = content if isinstance(content, bytes) else content.SerializeToString()
    (directory / "model.onnx").write_bytes(data)
    if configuration is not None:
        (root / name / "config.pbtxt").write_text(configuration)


def save_zoo(root: Path) -> None:
    """A repository with a model of each sort that the wire tests need."""
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
    save(root, "slow", countdown())
    save(root, "lazy", lazy(), configuration="max_batch_size: 8")
    save(root, "broken", b"this is no model")
    save(root, "half_broken", add_constant(1), version=1, configuration="version_policy { all {} }")
    save(root, "half_broken", b"", version=2)
    save(root, "empty", add_constant(1))
    (root / "empty" / "1").rename(root / "empty" / "first")
