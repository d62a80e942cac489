import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import TensorConfig
from turnout_server.core.signatures import Signature, TensorSpec, declared

from tests.server.fakes import spec

PAIR = Signature((spec("a", -1, 2), spec("b", -1, 2)), (spec("y", -1, 2), spec("z", -1)), max_batch_size=4)
ROW = np.zeros((1, 2), np.float32)


def ask(*outputs: str, **inputs: np.ndarray) -> InferRequest:
    return InferRequest("m", "", "", inputs, outputs)


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_request_that_fits_has_as_many_rows_as_its_inputs(rows: int) -> None:
    array = np.zeros((rows, 2), np.float32)
    assert PAIR.rows_of(ask(a=array, b=array)) == rows


def test_a_model_without_a_batch_has_one_row_whatever_comes() -> None:
    plain = Signature((spec("a", -1, -1),), (spec("y", -1),), max_batch_size=0)
    assert plain.rows_of(ask(a=np.zeros((7, 3), np.float32))) == 1


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            ask(a=ROW),
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], but missing required input(s) ['b']",
        ),
        (ask(a=ROW, b=ROW, c=ROW), "unexpected inference input 'c' for model 'm'; it takes ['a', 'b']"),
        (ask("x", a=ROW, b=ROW), "unexpected inference output 'x' for model 'm'; it has ['y', 'z']"),
        (ask(a=ROW, b=ROW.astype(np.int64)), "inference input 'b' data-type is 'INT64', but model 'm' expects 'FP32'"),
        (ask(a=ROW, b=ROW[0]), "unexpected shape for input 'b' for model 'm'. Expected [-1,2], got [2]. "),
        (ask(a=ROW, b=ROW[:, :1]), "unexpected shape for input 'b' for model 'm'. Expected [-1,2], got [1,1]. "),
        (ask(a=ROW, b=ROW[0, 0, ...]), "input 'b' has no shape but model requires batch dimension for 'm'"),
        (
            ask(a=ROW, b=np.zeros((2, 2), np.float32)),
            "input 'b' batch size does not match other inputs for 'm': a has 1, b has 2",
        ),
        (
            ask(a=np.zeros((5, 2), np.float32), b=np.zeros((5, 2), np.float32)),
            "inference request batch-size must be <= 4 for 'm'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_the_words_that_clients_match_on(request_: InferRequest, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        PAIR.rows_of(request_)
    assert text in str(caught.value)


def config(*dims: int, name: str = "a", datatype: str = "TYPE_FP32", reshape: tuple[int, ...] | None = None) -> TensorConfig:
    return TensorConfig(name, datatype, dims, reshape)


def test_a_configuration_that_says_nothing_shows_the_graph_as_it_is() -> None:
    assert declared(PAIR.inputs, (), 4, "input") == PAIR.inputs


def test_a_configuration_may_fix_what_the_graph_leaves_free() -> None:
    (shown,) = declared((spec("a", -1, -1),), (config(5),), 4, "input")
    assert shown.shape == (-1, 5)


@pytest.mark.parametrize(
    ("graph", "shown"),
    [
        (spec("a", -1, 2), config(3)),
        (spec("a", -1, 2), config(2, 2)),
        (spec("a", -1, 2), config(2, datatype="TYPE_INT8")),
        (spec("a", -1, 2), config(2, name="b")),
        (spec("a", 1, 2), config(2)),
    ],
    ids=["another size", "another rank", "another datatype", "another name", "no free batch"],
)
def test_a_configuration_that_contradicts_the_graph_is_refused(graph: TensorSpec, shown: TensorConfig) -> None:
    with pytest.raises(FailedPrecondition):
        declared((graph,), (shown,), 4, "input")


def test_a_reshape_is_undone_for_the_client() -> None:
    (inner,) = declared((spec("a", -1, 1, 6),), (config(2, 3, reshape=(1, 6)),), 4, "input")
    signature = Signature((inner,), (inner,), 4)
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    graph = signature.to_graph({"a": array})["a"]
    assert graph.shape == (2, 1, 6)
    np.testing.assert_array_equal(signature.to_client({"a": graph})["a"], array)
