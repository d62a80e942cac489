from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from turnout_server.devices import onnx_graph
from turnout_server.devices.hazards import hazards

from tests import models
from tests.models import Tensors

INT, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL
NUMBERS: Tensors = {"a": (INT, ("n",)), "b": (INT, ("n",))}
ANY: Tensors = {"y": (INT, None)}  # type: ignore[dict-item]
CONSTANTS = {
    "two": np.array([2]),
    "sizes": np.array([3, 4]),
    "zero": np.array(0),
    "one": np.array(1),
    "first": np.array([0]),
    "yes": np.array(True),
}


def found(tmp_path: Path, nodes: list[onnx.NodeProto], inputs: Tensors = NUMBERS, element: int = INT) -> tuple[str, ...]:
    """The hazards of a graph of these nodes."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString())
    return hazards(path)


node = helper.make_node
ENDLESS = helper.make_graph([], "body", [], [])


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([node("Div", ["a", "b"], ["y"])], "Div 'y' divides integers by a value of the request"),
        ([node("Mod", ["a", "b"], ["y"], name="rest")], "Mod 'rest' divides integers by a value of the request"),
        ([node("Add", ["b", "two"], ["c"]), node("Div", ["two", "c"], ["y"])], "Div 'y' divides"),
        ([node("Cast", ["a"], ["c"], to=INT), node("Div", ["two", "c"], ["y"])], "Div 'y' divides"),
        ([node("Loop", ["a", "yes"], ["y"], body=ENDLESS)], "Loop 'y' may have any number of rounds"),
        ([node("Loop", ["", "yes"], ["y"], body=ENDLESS)], "Loop 'y' may have any number of rounds"),
        ([node("ConstantOfShape", ["a"], ["y"])], "ConstantOfShape 'y' takes a size from a value of the request"),
        ([node("Range", ["zero", "a", "one"], ["y"])], "Range 'y' takes a size"),
        ([node("Expand", ["two", "a"], ["y"])], "Expand 'y' takes a size"),
        ([node("Tile", ["two", "a"], ["y"])], "Tile 'y' takes a size"),
        ([node("OneHot", ["two", "a", "sizes"], ["y"])], "OneHot 'y' takes a size"),
        ([node("Resize", ["two", "", "", "a"], ["y"])], "Resize 'y' takes a size"),
        (
            [node("If", ["yes"], ["y"], then_branch=helper.make_graph([node("Div", ["a", "b"], ["q"])], "then", [], []))],
            "Div 'q'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_value_can_do_is_found(tmp_path: Path, nodes: list[onnx.NodeProto], says: str) -> None:
    assert says in " ".join(found(tmp_path, nodes))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Div", ["a", "two"], ["y"])],
        [node("Shape", ["a"], ["s"]), node("Div", ["b", "s"], ["y"])],
        [node("Shape", ["a"], ["s"]), node("ConstantOfShape", ["s"], ["y"])],
        [node("Shape", ["a"], ["s"]), node("Expand", ["two", "s"], ["y"])],
        [node("Expand", ["a", "sizes"], ["y"])],
        [node("Loop", ["two", "yes"], ["y"], body=ENDLESS)],
        [node("Cast", ["a"], ["f"], to=FLOAT), node("Cast", ["b"], ["g"], to=FLOAT), node("Div", ["f", "g"], ["y"])],
        [node("Mod", ["a", "b"], ["y"], fmod=1)],
        [node("Resize", ["a", "", "sizes"], ["y"])],
    ],
    ids=[
        "constant divisor",
        "shape divisor",
        "shape",
        "expand to a shape",
        "constant size",
        "rounds",
        "floats",
        "fmod",
        "scales",
    ],
)
def test_what_follows_from_shapes_and_constants_is_no_hazard(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    assert found(tmp_path, nodes) == ()


def test_a_function_of_the_model_is_looked_into_where_it_is_used(tmp_path: Path) -> None:
    opset = [helper.make_opsetid("", 19), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Fill", ["s"], ["r"], [node("ConstantOfShape", ["s"], ["r"])], opset[:1])
    for used in (True, False):
        nodes = [node("Fill", ["a"], ["y"], domain="own") if used else node("Identity", ["a"], ["y"])]
        infos = [helper.make_tensor_value_info(name, INT, None) for name in ("a", "y")]
        graph = helper.make_graph(nodes, "test", infos[:1], infos[1:])
        path = tmp_path / f"{used}.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opset, functions=[function]).SerializeToString())
        assert bool(hazards(path)) == used


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    assert found(tmp_path, [node("Add", ["a", "b"], ["y"])]) == ()
    assert found(tmp_path, [node("Div", ["a", "b"], ["y"], name="a longer name")]) != ()


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\x7f", b"x" * 100])
def test_a_file_that_is_no_model_has_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert hazards(path) == ()
    assert hazards(tmp_path / "missing.onnx") == ()


def test_the_structure_of_a_file_is_read_without_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(models.mlp().SerializeToString())
    graph = onnx_graph.read(path).graph
    loaded = onnx.load(path).graph
    assert [each.operator for each in graph.nodes] == [each.op_type for each in loaded.node]
    assert [each.inputs for each in graph.nodes] == [tuple(each.input) for each in loaded.node]
    assert graph.initializers == {each.name: each.data_type for each in loaded.initializer}
    assert graph.inputs == {each.name: each.type.tensor_type.elem_type for each in loaded.input}
