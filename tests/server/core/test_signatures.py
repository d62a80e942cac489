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


def test_a_reshape_is_undone_for_the_client() -> None:
    (reshaped,) = declared((spec("a", -1, 1, 6),), (config(2, 3, reshape=(1, 6)),), 4, "input")
    signature = Signature((reshaped,), (reshaped,), 4)
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    graph = signature.to_graph({"a": array})["a"]
    assert graph.shape == (2, 1, 6)
    np.testing.assert_array_equal(signature.to_client({"a": graph})["a"], array)
