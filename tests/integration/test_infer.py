"""Tests of inference with tensors of every datatype and shape, raw and typed."""

import numpy as np
import pytest

from tests.servers import RunningServer
from tests.wire import CONTENTS, DTYPES, arrays, assert_same, parameters, request


def sample(datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values from both ends of a datatype's range, and its special values."""
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        values: list[object] = [b"", "grüß".encode(), b"with\0nul", b"x" * 300]
    elif datatype == "BOOL":
        values = [True, False, False, True]
    elif dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        values = [int(bounds.min), int(bounds.max), 0, 1]
    else:
        bits = np.array([0, 1], f"u{dtype.itemsize}").view(dtype)  # zero and the smallest positive number
        values = [-bits[0], bits[1], float("nan"), float("-inf")]
    cells = np.empty(int(np.prod(shape)), dtype)
    cells[:] = [values[i % len(values)] for i in range(cells.size)]
    return cells.reshape(shape)


#: Suffixes of the zoo's identity models, and valid shapes for them. Shapes with a 0 have no elements.
SHAPES = [
    *[("batch", shape) for shape in [(1, 4), (3, 5), (8, 1), (0, 4), (2, 0)]],
    *[("plain", shape) for shape in [(1, 4), (3, 5), (0, 4), (2, 0)]],
    ("scalar", ()),
]


@pytest.mark.parametrize(("sort", "shape"), SHAPES)
@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_tensors_come_back_bit_exact(server: RunningServer, datatype: str, sort: str, shape: tuple[int, ...]) -> None:
    array = sample(datatype, shape)
    answer = server.stub.ModelInfer(request(f"{datatype.lower()}_{sort}", {"INPUT": array}))
    assert_same(arrays(answer)["OUTPUT"], array)


@pytest.mark.parametrize(("sort", "shape"), SHAPES)
@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_tensors_come_back_bit_exact(server: RunningServer, datatype: str, sort: str, shape: tuple[int, ...]) -> None:
    array = sample(datatype, shape)
    answer = server.stub.ModelInfer(request(f"{datatype.lower()}_{sort}", {"INPUT": array}, typed=True))
    assert_same(arrays(answer)["OUTPUT"], array)


def pair(rows: int = 2) -> dict[str, np.ndarray]:
    """Inputs for the model `add_sub`."""
    return {
        "INPUT0": np.arange(rows * 16, dtype=np.float32).reshape(rows, 16),
        "INPUT1": np.ones((rows, 16), np.float32),
    }


def test_outputs_have_the_models_order(server: RunningServer) -> None:
    inputs = pair()
    answer = server.stub.ModelInfer(request("add_sub", inputs))
    assert [output.name for output in answer.outputs] == ["OUTPUT0", "OUTPUT1"]
    np.testing.assert_array_equal(arrays(answer)["OUTPUT0"], inputs["INPUT0"] + 1)
    np.testing.assert_array_equal(arrays(answer)["OUTPUT1"], inputs["INPUT0"] - 1)


def test_inputs_may_have_any_order(server: RunningServer) -> None:
    inputs = dict(reversed(pair().items()))
    answer = server.stub.ModelInfer(request("add_sub", inputs))
    np.testing.assert_array_equal(arrays(answer)["OUTPUT1"], inputs["INPUT0"] - 1)


@pytest.mark.parametrize("requested", [["OUTPUT1"], ["OUTPUT0"], ["OUTPUT1", "OUTPUT0"]])
def test_only_the_requested_outputs_are_returned(server: RunningServer, requested: list[str]) -> None:
    inputs = pair()
    answer = arrays(server.stub.ModelInfer(request("add_sub", inputs, outputs=requested)))
    assert sorted(answer) == sorted(requested)
    if "OUTPUT1" in requested:
        np.testing.assert_array_equal(answer["OUTPUT1"], inputs["INPUT0"] - 1)


@pytest.mark.parametrize("given", ["", "a", "Zähler 7\n", "x" * 500])
def test_the_response_has_the_id_of_its_request(server: RunningServer, given: str) -> None:
    assert server.stub.ModelInfer(request("add_sub", pair(), id=given)).id == given


@pytest.mark.parametrize(("asked", "answered"), [("", "2"), ("1", "1"), ("2", "2")])
def test_the_requested_version_answers_or_the_highest_if_none_is_requested(
    server: RunningServer, asked: str, answered: str
) -> None:
    answer = server.stub.ModelInfer(request("versions", {"x": np.zeros((1, 1), np.float32)}, version=asked))
    assert (answer.model_name, answer.model_version) == ("versions", answered)
    assert arrays(answer)["y"].item() == float(answered)


def test_a_model_without_a_configuration_is_batched(server: RunningServer) -> None:
    x = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    batched = arrays(server.stub.ModelInfer(request("undescribed", {"x": x})))["y"]
    single = [arrays(server.stub.ModelInfer(request("undescribed", {"x": row[None]})))["y"] for row in x]
    np.testing.assert_allclose(batched, np.concatenate(single), rtol=1e-5)


def test_the_response_describes_the_route_and_the_run(server: RunningServer) -> None:
    answered = parameters(server.stub.ModelInfer(request("add_sub", pair(rows=3), parameters={"device": "cpu"})))
    assert (answered["device"], answered["device_requested"], answered["route_reason"]) == ("cpu", "cpu", "requested")
    assert answered["batch_size"] == 3
    for name in ("decode_us", "queue_us", "compute_us", "predicted_us"):
        assert int(answered[name]) >= 0


def test_unknown_parameters_are_ignored(server: RunningServer) -> None:
    message = request("add_sub", pair(), parameters={"colour": "blue", "binary_data_output": True, "depth": 3, "share": 0.5})
    message.inputs[0].parameters["binary_data_size"].int64_param = 128
    message.outputs.add(name="OUTPUT0").parameters["binary_data"].bool_param = True
    server.stub.ModelInfer(message)


def test_concurrent_requests_get_their_own_answers(server: RunningServer) -> None:
    calls = []
    for number in range(200):
        x = np.full((number % 8 + 1, 8), number, np.float32)
        calls.append((x, server.stub.ModelInfer.future(request("fp32_batch", {"INPUT": x}))))
    for x, call in calls:
        assert_same(arrays(call.result())["OUTPUT"], x)
