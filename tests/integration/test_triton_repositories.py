"""What repositories written for Triton have, and what its ONNX Runtime backend makes of them."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from turnout_loadtests.client import model_metadata
from turnout_loadtests.errors import LoadTestError
from turnout_proto import inference_pb2 as pb
from turnout_proto import model_config_pb2 as mc

from tests import models, wire
from tests.servers import RunningServer, running

FLOAT = TensorProto.FLOAT
DIMENSIONS = "max_batch_size: {} input {{ name: 'x' data_type: TYPE_FP32 dims: [{}] }} output {{ name: 'y' dims: [{}] }}"
OPTIONAL = """
    max_batch_size: 0
    input [ { name: "x" dims: [ -1, 2 ] }, { name: "w" dims: [ 2 ] optional: true } ]
    """


def doubled(shape: list[int | str] | None) -> onnx.ModelProto:
    """y = x + x, float32; the shape of both is left out for None."""
    values = [helper.make_tensor_value_info(name, FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def with_default() -> onnx.ModelProto:
    """y = x + w, float32 (n, 2), where w is an input with the value [10, 20]."""
    constants = {"w": np.array([10, 20], np.float32)}
    inputs: models.Tensors = {"x": (FLOAT, ("n", 2)), "w": (FLOAT, (2,))}
    return models.model([helper.make_node("Add", ["x", "w"], ["y"])], inputs, {"y": (FLOAT, ("n", 2))}, constants)


def warm_up(source: str, rows: int = 1, datatype: str = "TYPE_FP32") -> str:
    value = f"{{ data_type: {datatype} dims: [ 2 ] {source} }}"
    return f"model_warmup {{ name: 'w' batch_size: {rows} inputs {{ key: 'INPUT' value {value} }} }}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("triton")
    models.save(root, "unranked", doubled(None), configuration=DIMENSIONS.format(0, "2, 3", "2, 3"))
    models.save(root, "unranked_batch", doubled(None), configuration=DIMENSIONS.format(8, "3", "3"))
    models.save(root, "unranked_undeclared", doubled(None))
    only_input = "max_batch_size: 8 input { name: 'x' dims: [3] }"
    models.save(root, "unranked_output", doubled(None), configuration=only_input)
    models.save(root, "column", doubled(["batch"]), configuration="max_batch_size: 8")
    models.save(root, "column_undescribed", doubled(["batch"]))
    models.save(root, "scalar", doubled([]), configuration=DIMENSIONS.format(0, "1", "1"))
    models.save(root, "default", with_default(), configuration=OPTIONAL)
    models.save(root, "default_undeclared", with_default())
    plain, batch = models.identity("FP32", (2,)), models.identity("FP32", ("n", 2))
    models.save(root, "warm_plain", plain, configuration=f"max_batch_size: 0 {warm_up('zero_data: true')}")
    recorded = "input_data_file: 'row'"
    models.save(root, "warm_row", batch, configuration=f"max_batch_size: 8 {warm_up(recorded, 2)}")
    texts = models.identity("BYTES", ("n", 2))
    as_text = warm_up(recorded, 2, "TYPE_STRING")
    models.save(root, "warm_texts", texts, configuration=f"max_batch_size: 8 {as_text}")
    huge = warm_up("zero_data: true").replace("dims: [ 2 ]", "dims: [ 4611686018427387904, 2 ]")
    models.save(root, "warm_huge", batch, configuration=f"max_batch_size: 8 {huge}")
    for name, content in (("warm_row", bytes(8)), ("warm_texts", b"\x01\x00\x00\x00a\x00\x00\x00\x00")):
        (root / name / "warmup").mkdir()
        (root / name / "warmup" / "row").write_bytes(content)
    with running(root, "--device", 'cpu:child={isolation = "process"}') as started:
        yield started


def infer(server: RunningServer, model: str, device: str, **inputs: np.ndarray) -> np.ndarray:
    request = wire.request(model, inputs, parameters={"device": device})
    return wire.arrays(server.stub.ModelInfer(request))["y"]


DEVICES = pytest.mark.parametrize("device", ["cpu", "cpu:child"])


@DEVICES
@pytest.mark.parametrize(("model", "shape", "wrong"), [("unranked", (2, 3), (3,)), ("unranked_batch", (4, 3), (4, 2))])
def test_where_the_graph_states_no_rank_the_dimensions_of_the_configuration_count(
    server: RunningServer, model: str, shape: tuple[int, ...], wrong: tuple[int, ...], device: str
) -> None:
    array = np.ones(shape, np.float32)
    np.testing.assert_array_equal(infer(server, model, device, x=array), array * 2)
    with wire.refused("INVALID_ARGUMENT", "unexpected shape for input 'x'"):
        infer(server, model, device, x=np.ones(wrong, np.float32))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("unranked_undeclared", "states no shape for input 'x': give its dims in an input section of config.pbtxt"),
        ("unranked_output", "states no dimensions for 'y'; give its dims in an output section"),
        ("warm_huge", "no request can carry more than"),
    ],
)
def test_what_no_request_could_use_is_not_ready_and_says_why(server: RunningServer, model: str, reason: str) -> None:
    assert not server.stub.ModelReady(pb.ModelReadyRequest(name=model)).ready
    entries = server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert reason in next(entry.reason for entry in entries if entry.name == model)


@DEVICES
@pytest.mark.parametrize("model", ["column", "column_undescribed"])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_number_a_row_comes_and_goes_in_either_shape(
    server: RunningServer, model: str, shape: tuple[int, ...], device: str
) -> None:
    array = np.arange(3, dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(infer(server, model, device, x=array), array * 2)


@DEVICES
def test_a_scalar_declared_as_one_number_is_served_as_declared(server: RunningServer, device: str) -> None:
    assert infer(server, "scalar", device, x=np.ones(1, np.float32)).tolist() == [2]


@DEVICES
def test_an_input_with_a_value_in_the_graph_may_be_left_out_or_replaced(server: RunningServer, device: str) -> None:
    x = np.zeros((3, 2), np.float32)
    assert infer(server, "default", device, x=x).tolist() == [[10, 20]] * 3
    assert infer(server, "default", device, x=x, w=np.ones(2, np.float32)).tolist() == [[1, 1]] * 3
    assert infer(server, "default_undeclared", device, x=x).tolist() == [[10, 20]] * 3


def test_the_configuration_in_force_says_which_input_is_optional(server: RunningServer) -> None:
    config: mc.ModelConfig = server.stub.ModelConfig(pb.ModelConfigRequest(name="default")).config
    assert {spec.name: spec.optional for spec in config.input} == {"x": False, "w": True}


def test_a_load_test_leaves_out_what_a_request_may_leave_out(server: RunningServer) -> None:
    assert [tensor.name for tensor in model_metadata(server.stub, "default").inputs] == ["x"]
    assert [tensor.name for tensor in model_metadata(server.stub, "column").inputs] == ["x"]


def test_a_load_test_does_not_measure_a_model_whose_shape_nobody_knows(server: RunningServer) -> None:
    with pytest.raises(LoadTestError, match="states no shape for input 'x'"):
        model_metadata(server.stub, "unranked_undeclared")


@pytest.mark.parametrize("model", ["warm_plain", "warm_row", "warm_texts"])
def test_a_warm_up_that_triton_runs_is_run(server: RunningServer, model: str) -> None:
    assert server.stub.ModelReady(pb.ModelReadyRequest(name=model)).ready
