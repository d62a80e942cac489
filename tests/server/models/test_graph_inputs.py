"""What is read of an ONNX file agrees with what the `onnx` package writes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.signatures import TensorSpec
from turnout_server.models import graph_inputs
from turnout_server.models.graph_inputs import GraphInputs

from tests import models

Shape = list[int | str | None]


def save(path: Path, shapes: dict[str, Shape | None], output: Shape | None, ir_version: int = 9) -> Path:
    """Writes a graph with these float32 inputs; `w` has a value of its own."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.ones(2, np.float32), "w")],
    )
    path.write_bytes(helper.make_model(graph, ir_version=ir_version).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("shape", "unranked"),
    [(None, {"x"}), ([], set()), ([2], set()), (["batch", 2], set()), ([None, 2], set())],
    ids=["unknown rank", "scalar", "vector", "named", "unnamed"],
)
def test_an_unknown_rank_is_told_from_a_scalar(tmp_path: Path, shape: Shape | None, unranked: set[str]) -> None:
    read = graph_inputs.read(save(tmp_path / "m", {"x": shape}, shape))
    assert read.unranked_inputs == unranked
    assert read.unranked_outputs == {"y"} & {"y" if shape is None else ""}


@pytest.mark.parametrize(("ir_version", "counts"), [(3, False), (4, True), (9, True)])
def test_an_initializer_that_is_also_an_input_is_a_default_where_the_format_has_them(
    tmp_path: Path, ir_version: int, counts: bool
) -> None:
    read = graph_inputs.read(save(tmp_path / "m", {"x": ["n", 2], "w": [2]}, ["n", 2], ir_version))
    assert read.defaults == ((TensorSpec("w", DATATYPES["FP32"], (2,)),) if counts else ())
    assert not read.unranked_inputs


@pytest.mark.parametrize("datatype", DATATYPES)
def test_the_datatypes_have_the_numbers_of_the_format(datatype: str) -> None:
    assert DATATYPES[datatype].element_type == models.ELEMENT_TYPES[datatype]


def test_fields_of_every_wire_type_are_passed_over(tmp_path: Path) -> None:
    model = models.mlp()
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", 0.5))
    model.metadata_props.append(onnx.StringStringEntryProto(key="k", value="v"))
    # A field that this version of the format doesn't know: number 100, 64 bits wide, then number 101, 32 bits wide.
    (tmp_path / "m").write_bytes(model.SerializeToString() + b"\xa1\x06" + bytes(8) + b"\xad\x06" + bytes(4))
    assert graph_inputs.read(tmp_path / "m") == GraphInputs()


@pytest.mark.parametrize("content", [b"", b"no model", b"\x3a\xff\xff\xff\xff\x0f", b"\x08", b"\xff" * 20, b"\x0b"])
def test_what_is_no_model_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    assert graph_inputs.read(tmp_path / "m") == GraphInputs()
    assert graph_inputs.read(tmp_path / "missing") == GraphInputs()


@given(data=st.data())
def test_damaged_files_are_read_without_a_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    content = bytearray(save(path, {"x": ["n", 2], "w": [2]}, ["n", 2]).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    assert isinstance(graph_inputs.read(path), GraphInputs)
