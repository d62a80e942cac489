from dataclasses import replace

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import TensorConfig
from turnout_server.core.signatures import Signature, TensorSpec, declared

from tests.server.fakes import spec

PAIR = Signature((spec("a", -1, 2), spec("b", -1, 2)), (spec("y", -1, 2), spec("z", -1)), max_batch_size=4)
ROW = np.zeros((1, 2), np.float32)


def infer_request(*outputs: str, **inputs: np.ndarray) -> InferRequest:
    return InferRequest("m", "", "", inputs, outputs)


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_valid_request_has_as_many_rows_as_its_inputs(rows: int) -> None:
    array = np.zeros((rows, 2), np.float32)
    assert PAIR.rows_of(infer_request(a=array, b=array)) == rows


def test_requests_for_an_unbatched_model_have_one_row() -> None:
    plain = Signature((spec("a", -1, -1),), (spec("y", -1),), max_batch_size=0)
    assert plain.rows_of(infer_request(a=np.zeros((7, 3), np.float32))) == 1


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            infer_request(a=ROW),
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], but missing required input(s) ['b']",
        ),
        (infer_request(a=ROW, b=ROW, c=ROW), "unexpected inference input 'c' for model 'm'; it takes ['a', 'b']"),
        (infer_request("x", a=ROW, b=ROW), "unexpected inference output 'x' for model 'm'; it has ['y', 'z']"),
        (
            infer_request(a=ROW, b=ROW.astype(np.int64)),
            "inference input 'b' data-type is 'INT64', but model 'm' expects 'FP32'",
        ),
        (infer_request(a=ROW, b=ROW[0]), "unexpected shape for input 'b' for model 'm'. Expected [-1,2], got [2]. "),
        (infer_request(a=ROW, b=ROW[:, :1]), "unexpected shape for input 'b' for model 'm'. Expected [-1,2], got [1,1]. "),
        (infer_request(a=ROW, b=ROW[0, 0, ...]), "input 'b' has no shape but model requires batch dimension for 'm'"),
        (
            infer_request(a=ROW, b=np.zeros((2, 2), np.float32)),
            "input 'b' batch size does not match other inputs for 'm': a has 1, b has 2",
        ),
        (
            infer_request(a=np.zeros((5, 2), np.float32), b=np.zeros((5, 2), np.float32)),
            "inference request batch-size must be <= 4 for 'm'",
        ),
    ],
)
def test_an_invalid_request_is_refused_with_the_text_that_clients_match_on(request_: InferRequest, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        PAIR.rows_of(request_)
    assert text in str(caught.value)


def config(*dims: int, name: str = "a", datatype: str = "TYPE_FP32", reshape: tuple[int, ...] | None = None) -> TensorConfig:
    return TensorConfig(name, datatype, dims, reshape)


def test_without_declarations_clients_see_the_inputs_of_the_graph() -> None:
    assert declared(PAIR.inputs, (), 4, "input") == PAIR.inputs


def test_a_configuration_may_fix_a_free_dimension_of_the_graph() -> None:
    (fixed,) = declared((spec("a", -1, -1),), (config(5),), 4, "input")
    assert fixed.shape == (-1, 5)


@pytest.mark.parametrize(
    ("graph", "declaration"),
    [
        (spec("a", -1, 2), config(3)),
        (spec("a", -1, 2), config(2, 2)),
        (spec("a", -1, 2), config(2, datatype="TYPE_INT8")),
        (spec("a", -1, 2), config(2, name="b")),
        (spec("a", 1, 2), config(2)),
    ],
    ids=["another size", "another rank", "another datatype", "another name", "no free batch"],
)
def test_a_configuration_that_contradicts_the_graph_is_refused(graph: TensorSpec, declaration: TensorConfig) -> None:
    with pytest.raises(FailedPrecondition):
        declared((graph,), (declaration,), 4, "input")


def test_an_input_of_another_name_is_called_unexpected_and_not_one_too_few() -> None:
    one = Signature((spec("a", -1, 2),), (spec("y", -1, 2),), 4)
    with pytest.raises(InvalidRequest) as caught:
        one.rows_of(infer_request(b=ROW))
    assert str(caught.value).startswith("unexpected inference input 'b' for model 'm'; it takes ['a']")
    assert "missing required input(s) ['a']" in str(caught.value)
    assert "expected 1 inputs but got 1" not in str(caught.value)


@pytest.mark.parametrize(("max_batch_size", "graph", "column"), [(4, (-1,), (3, 1)), (0, (), (1,))], ids=["rows", "scalar"])
def test_one_number_a_row_is_taken_in_tritons_shape_too_and_answered_in_the_shape_it_came_in(
    max_batch_size: int, graph: tuple[int, ...], column: tuple[int, ...]
) -> None:
    inputs = declared((spec("a", *graph),), (), max_batch_size, "input")
    outputs = declared((spec("y", *graph),), (), max_batch_size, "output")
    signature = Signature(inputs, outputs, max_batch_size)
    for shape in (column, column[:-1]):
        array = np.ones(shape, np.float32)
        assert signature.rows_of(infer_request(a=array)) == (3 if max_batch_size else 1)
        run = signature.to_graph({"a": array})
        assert run["a"].shape == column[:-1]
        assert signature.to_client({"y": run["a"]}, {"a": array})["y"].shape == shape


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 1), (3, 0)])
def test_one_number_a_row_is_not_two(shape: tuple[int, ...]) -> None:
    signature = Signature(declared((spec("a", -1),), (), 4, "input"), (), 4)
    with pytest.raises(InvalidRequest, match="unexpected shape"):
        signature.rows_of(infer_request(a=np.ones(shape, np.float32)))


def test_a_vector_of_a_model_without_batches_is_no_column() -> None:
    signature = Signature(declared((spec("a", -1),), (), 0, "input"), (), 0)
    with pytest.raises(InvalidRequest, match="unexpected shape"):
        signature.rows_of(infer_request(a=np.ones((3, 1), np.float32)))


@pytest.mark.parametrize("dims", [(1,), (1, 1)])
def test_a_scalar_may_be_declared_with_dimensions_of_one_as_triton_has_it(dims: tuple[int, ...]) -> None:
    specs = declared((spec("a"),), (config(*dims),), 0, "input")
    signature = Signature(specs, specs, 0)
    array = np.ones(dims, np.float32)
    signature.rows_of(infer_request(a=array))
    assert signature.to_graph({"a": array})["a"].shape == ()
    assert signature.to_client({"a": np.ones((), np.float32)}, {})["a"].shape == dims


def test_an_input_with_a_value_of_its_own_is_optional_if_it_is_declared() -> None:
    optional = replace(config(2, name="w"), optional=True)
    specs = declared((spec("a", 2),), (config(2), optional), 0, "input", (spec("w", 2),))
    signature = Signature(specs, (), 0)
    row = ROW[0]
    for sent in ({"a": row}, {"a": row, "w": row}):
        assert signature.rows_of(infer_request(**sent)) == 1
        assert signature.to_graph(sent).keys() == sent.keys()
    with pytest.raises(InvalidRequest, match="missing required input"):
        signature.rows_of(infer_request(w=row))
    with pytest.raises(InvalidRequest, match="unexpected inference input 'v'"):
        signature.rows_of(infer_request(a=row, v=row))


@pytest.mark.parametrize(
    ("name", "optional", "text"),
    [("w", False, "declare it with optional: true"), ("a", True, "the ONNX graph has no value for it")],
)
def test_what_is_optional_must_agree_with_the_graph(name: str, optional: bool, text: str) -> None:
    configs = (*(() if name == "a" else (config(2),)), replace(config(2, name=name), optional=optional))
    with pytest.raises(FailedPrecondition, match=text):
        declared((spec("a", 2),), configs, 0, "input", (spec("w", 2),))


def test_a_reshape_is_undone_for_the_client() -> None:
    (reshaped,) = declared((spec("a", -1, 1, 6),), (config(2, 3, reshape=(1, 6)),), 4, "input")
    signature = Signature((reshaped,), (reshaped,), 4)
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    graph = signature.to_graph({"a": array})["a"]
    assert graph.shape == (2, 1, 6)
    np.testing.assert_array_equal(signature.to_client({"a": graph})["a"], array)
