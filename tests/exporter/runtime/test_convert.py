from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from turnout_exporter.errors import Refused
from turnout_exporter.jobs import VariantJob
from turnout_exporter.runtime import convert
from turnout_exporter.runtime.convert import after_the_last_heavy_node, convolutional_share
from turnout_exporter.runtime.sessions import open_session, run_session

from tests.exporter.runtime.models import SILENT

RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    found: np.ndarray = (RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return found


def model(nodes: list[onnx.NodeProto], shape: list[int | str], **initializers: np.ndarray) -> ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )  # fmt: skip
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(found, {"turnout.task": "toy"})
    return found


def convolutional() -> ModelProto:
    """Convolution, pooling, a small matrix, and a scaling of the result by 100."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "m"], ["s"], "matmul"),
        helper.make_node("Mul", ["s", "scale"], ["y"], "scaling"),
    ]
    return model(nodes, ["batch", 3, 16, 16], w=weights(16, 3, 3, 3), m=weights(16, 4), scale=np.array([100.0], np.float32))


def dense() -> ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "m"], ["y"], "matmul")]
    return model(nodes, ["batch", 64], m=weights(64, 32))


def converted(tmp_path: Path, proto: ModelProto, variant: str, samples: str | None = None) -> tuple[Path, str]:
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / "model.onnx")
    shape = ",".join(d.dim_param or str(d.dim_value) for d in proto.graph.input[0].type.tensor_type.shape.dim)
    output = folder / f"model.{variant}.onnx"
    job = VariantJob(
        variant,
        str(folder / "model.onnx"),
        str(output),
        [f"x=float32[{shape}]"],
        samples,
        ["batch=8", "batch=8#2", "batch=8#3"],
    )
    return output, convert.run(vars(job), SILENT)["method"]


def error(original: Path, variant: Path, x: np.ndarray) -> float:
    right, found = (run_session(open_session(path), {"x": x})["y"] for path in (original, variant))
    return float(np.abs(right - found).max() / np.abs(right).max())


def calibration(tmp_path: Path) -> str:
    (tmp_path / "draw.py").write_text(
        "import numpy as np\ndef draw(sizes, seed):\n"
        "    x = np.random.default_rng(seed).standard_normal((sizes['batch'], 3, 16, 16))\n"
        "    return {'x': x.astype('float32')}\n"
    )
    return f"{tmp_path / 'draw.py'}:draw"


def test_a_network_of_convolutions_is_quantized_statically_with_calibration_data(tmp_path: Path) -> None:
    path, method = converted(tmp_path, convolutional(), "int8", calibration(tmp_path))
    assert method.startswith("static, 8-bit activations and weights per channel, calibrated with 3 batches")
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    x = RANDOM.standard_normal((4, 3, 16, 16)).astype(np.float32)
    assert error(path.with_name("model.onnx"), path, x) < 0.05


def test_convolutions_without_calibration_data_are_refused_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="give --samples module:function"):
        converted(tmp_path, convolutional(), "int8")


def test_matrices_are_quantized_dynamically_and_need_no_data(tmp_path: Path) -> None:
    path, method = converted(tmp_path, dense(), "int8")
    assert method == "dynamic, 8-bit weights"
    assert path.stat().st_size < path.with_name("model.onnx").stat().st_size
    assert error(path.with_name("model.onnx"), path, RANDOM.standard_normal((4, 64)).astype(np.float32)) < 0.05


def test_weights_that_are_joined_from_parts_are_quantized_as_a_whole(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["m"], "concat", axis=1),
        helper.make_node("MatMul", ["x", "m"], ["y"], "matmul"),
    ]
    path, _ = converted(tmp_path, model(nodes, ["batch", 64], a=weights(64, 16), b=weights(64, 16)), "int8")
    assert {node.op_type for node in onnx.load(path).graph.node} >= {"MatMulInteger", "DynamicQuantizeLinear"}


def test_a_graph_whose_shapes_cannot_be_inferred_leaves_nothing_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Path, skip_symbolic_shape: bool = False) -> None:
        Path("sym_shape_infer_temp.onnx").touch()
        if not skip_symbolic_shape:
            raise Exception("Incomplete symbolic shape inference")
        onnx.save(onnx.load(arguments[0]), arguments[1])

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(convert, "quant_pre_process", failing)
    path, _ = converted(tmp_path, dense(), "int8")
    assert path.exists()
    assert list((tmp_path / "here").iterdir()) == []


def test_float16_keeps_float32_at_its_borders(tmp_path: Path) -> None:
    path, _ = converted(tmp_path, convolutional(), "fp16")
    session = open_session(path)
    assert (session.get_inputs()[0].type, session.get_outputs()[0].type) == ("tensor(float)", "tensor(float)")
    onnx.checker.check_model(onnx.load(path))
    x = RANDOM.standard_normal((4, 3, 16, 16)).astype(np.float32)
    assert 0 < error(path.with_name("model.onnx"), path, x) < 5e-3


@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_a_variant_has_the_metadata_of_its_original(tmp_path: Path, variant: str) -> None:
    path, _ = converted(tmp_path, dense(), variant)
    assert {entry.key: entry.value for entry in onnx.load(path).metadata_props}["turnout.task"] == "toy"


def test_what_follows_the_last_product_stays_in_float32() -> None:
    assert after_the_last_heavy_node(convolutional()) == ["scaling"]


def test_the_share_of_convolutions_is_that_of_their_weights() -> None:
    assert convolutional_share(dense()) == 0
    assert convolutional_share(convolutional()) == pytest.approx(16 * 27 / (16 * 27 + 64 + 1))
