from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.payloads import (
    DTYPES,
    full_shape,
    infer_request,
    outputs_of,
    parse_shape,
    read_inputs,
    request_pool,
)
from turnout_proto import inference_pb2 as pb

from tests.loadtests.made import add_metadata

Tensor = pb.ModelMetadataResponse.TensorMetadata


def metadata(*inputs: pb.ModelMetadataResponse.TensorMetadata) -> pb.ModelMetadataResponse:
    return pb.ModelMetadataResponse(name="m", inputs=inputs)


def test_a_pool_holds_different_requests_of_the_batch_size_for_the_device() -> None:
    pool = request_pool(add_metadata(), device="cuda", batch=3, shapes={}, count=5)
    assert len({request.SerializeToString(deterministic=True) for request in pool}) == 5
    for request in pool:
        assert list(request.inputs[0].shape) == [3, 4]
        assert len(request.raw_input_contents[0]) == 3 * 4 * 4
        assert request.parameters["device"].string_param == "cuda"


def test_the_same_seed_gives_the_same_pool() -> None:
    first, again, other = (request_pool(add_metadata(), device="cpu", batch=1, shapes={}, seed=s) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("datatype", DTYPES)
def test_random_inputs_exist_for_every_datatype(datatype: str) -> None:
    described = metadata(Tensor(name="x", datatype=datatype, shape=[-1, 2]))
    (request,) = request_pool(described, device="cpu", batch=2, shapes={}, count=1)
    raw, dtype = request.raw_input_contents[0], DTYPES[datatype]
    if datatype == "BYTES":
        assert int.from_bytes(raw[:4], "little") == raw.index(b"row", 8) - 8
    else:
        values = np.frombuffer(raw, dtype).astype(np.float64)
        assert len(values) == 4
        assert ((values >= 0) & (values <= 1)).all()


def test_a_free_dimension_needs_a_size() -> None:
    tensor = Tensor(name="tokens", datatype="INT64", shape=[-1, -1])
    with pytest.raises(LoadTestError, match=r"--shape tokens:1"):
        full_shape(tensor, 2, {})
    assert full_shape(tensor, 2, {"tokens": (128,)}) == (2, 128)


def test_sizes_that_contradict_the_model_are_refused() -> None:
    tensor = Tensor(name="image", datatype="FP32", shape=[-1, 3, -1])
    for wrong in [(1, 8), (3,), (3, 8, 8)]:
        with pytest.raises(LoadTestError, match="doesn't fit"):
            full_shape(tensor, 1, {"image": wrong})


def test_a_fixed_first_dimension_allows_no_batch() -> None:
    tensor = Tensor(name="x", datatype="FP32", shape=[1, 4])
    assert full_shape(tensor, 1, {}) == (1, 4)
    with pytest.raises(LoadTestError, match="--batch 1"):
        full_shape(tensor, 2, {})


@given(st.integers(1, 7), st.integers(1, 9))
def test_given_rows_are_taken_in_turn_and_start_over(rows: int, batch: int) -> None:
    x = np.arange(rows * 4, dtype=np.float64).reshape(rows, 4)
    pool = request_pool(add_metadata(), device="cpu", batch=batch, shapes={}, inputs={"x": x}, count=3)
    sent = np.concatenate([np.frombuffer(request.raw_input_contents[0], np.float32) for request in pool]).reshape(-1, 4)
    assert (sent == x[np.arange(3 * batch) % rows]).all()


def test_rows_for_other_inputs_are_refused() -> None:
    with pytest.raises(LoadTestError, match=r"the arrays are \['y'\], but model 'add' takes \['x'\]"):
        request_pool(add_metadata(), device="cpu", batch=1, shapes={}, inputs={"y": np.zeros((1, 4))})


@pytest.mark.parametrize("text", ["", "image", "image:", "image:3,x", "image:0", ":3", "image:-1"])
def test_a_malformed_shape_is_refused(text: str) -> None:
    with pytest.raises(LoadTestError, match="isn't NAME:SIZE"):
        parse_shape(text)


def test_a_shape_may_have_colons_in_its_name() -> None:
    assert parse_shape("serving:image:3,224,224") == ("serving:image", (3, 224, 224))


def test_only_plain_arrays_are_read_as_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", x=np.ones((2, 4)))
    assert read_inputs(tmp_path / "good.npz")["x"].shape == (2, 4)
    np.savez(tmp_path / "pickle.npz", x=np.array([object()]), allow_pickle=True)
    np.save(tmp_path / "single.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("no")
    for name in ("pickle.npz", "text.npz", "missing.npz", "single.npy"):
        with pytest.raises(LoadTestError, match=name):
            read_inputs(tmp_path / name)


def test_an_answer_is_read_as_arrays() -> None:
    sent = infer_request("m", {"x": np.array([[1, 2]], np.int64)}, "cpu")
    answer = pb.ModelInferResponse(raw_output_contents=sent.raw_input_contents)
    answer.outputs.add(name="y", datatype="INT64", shape=[1, 2])
    assert outputs_of(answer)["y"].tolist() == [[1, 2]]


def test_a_device_may_ask_for_a_precision() -> None:
    request = infer_request("m", {"x": np.zeros((1, 2), np.float32)}, "cpu:1+int8")
    asked = {key: value.string_param for key, value in request.parameters.items()}
    assert asked == {"device": "cpu:1", "precision": "int8"}


def test_a_request_without_a_device_has_no_parameters() -> None:
    assert not infer_request("m", {"x": np.zeros((1, 2), np.float32)}).parameters
