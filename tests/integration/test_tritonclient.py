"""Tests with the unmodified `tritonclient.grpc`."""

from collections.abc import Iterator
from queue import SimpleQueue

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.servers import RunningServer
from tests.wire import DTYPES

PAIR = {"INPUT0": np.arange(16, dtype=np.float32)[None], "INPUT1": np.ones((1, 16), np.float32)}


@pytest.fixture
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as client:
        yield client


def tensors(inputs: dict[str, np.ndarray], datatype: str) -> list[triton.InferInput]:
    """Inputs for this client."""
    infer_inputs = []
    for name, array in inputs.items():
        infer_inputs.append(triton.InferInput(name, array.shape, datatype))
        infer_inputs[-1].set_data_from_numpy(array)
    return infer_inputs


def test_the_client_sees_a_live_and_ready_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "turnout"


def test_the_client_checks_whether_models_are_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_model_ready("add_sub")
    assert client.is_model_ready("versions", "1")
    for absent in [("versions", "9"), ("broken", ""), ("nowhere", "")]:
        assert not client.is_model_ready(*absent)


def test_the_client_reads_a_models_metadata(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("add_sub", as_json=True)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("add_sub", ["1"], "onnxruntime_onnx")
    assert metadata["inputs"] == [{"name": name, "datatype": "FP32", "shape": ["-1", "16"]} for name in ("INPUT0", "INPUT1")]
    assert [output["name"] for output in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert client.get_model_metadata("versions").versions == ["1", "2"]
    assert client.get_model_metadata("versions", "1").versions == ["1"]


def test_the_client_infers(client: triton.InferenceServerClient) -> None:
    requested = [triton.InferRequestedOutput("OUTPUT1")]
    result = client.infer("add_sub", tensors(PAIR, "FP32"), request_id="7", outputs=requested)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), PAIR["INPUT0"] - 1)
    assert result.as_numpy("OUTPUT0") is None
    assert (result.get_response().id, result.get_response().model_version) == ("7", "1")


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_the_client_sends_and_reads_half_precision(client: triton.InferenceServerClient, datatype: str) -> None:
    array = np.array([[0.5, -2.0, 1024.0]], DTYPES[datatype])
    result = client.infer(f"{datatype.lower()}_batch", tensors({"INPUT": array}, datatype))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT"), array)


def test_the_client_sends_and_reads_text(client: triton.InferenceServerClient) -> None:
    array = np.array([["grüß".encode(), b"", b"nul\0", "text", 7]], np.object_)
    result = client.infer("bytes_batch", tensors({"INPUT": array}, "BYTES"))
    assert result.as_numpy("OUTPUT").tolist() == [["grüß".encode(), b"", b"nul\0", b"text", b"7"]]


def test_the_client_sends_and_reads_empty_tensors(client: triton.InferenceServerClient) -> None:
    result = client.infer("fp32_plain", tensors({"INPUT": np.zeros((0, 3), np.float32)}, "FP32"))
    assert result.as_numpy("OUTPUT").shape == (0, 3)


def test_the_client_selects_the_device_by_parameter_or_metadata(client: triton.InferenceServerClient) -> None:
    result = client.infer("add_sub", tensors(PAIR, "FP32"), parameters={"device": "cpu"})
    assert result.get_response().parameters["device"].string_param == "cpu"
    result = client.infer("add_sub", tensors(PAIR, "FP32"), headers={"device": "cpu"})
    assert result.get_response().parameters["device_requested"].string_param == "cpu"


def test_the_client_sends_a_timeout_and_a_priority(client: triton.InferenceServerClient) -> None:
    client.infer("add_sub", tensors(PAIR, "FP32"), timeout=10_000_000, priority=1)


def test_the_client_gets_the_error_texts_that_clients_match_on(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nowhere' is not found") as caught:
        client.infer("nowhere", tensors(PAIR, "FP32"))
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_the_client_may_compress_requests(client: triton.InferenceServerClient) -> None:
    result = client.infer("add_sub", tensors(PAIR, "FP32"), compression_algorithm="gzip")
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), PAIR["INPUT0"] + 1)


def test_the_clients_asynchronous_calls_are_answered(client: triton.InferenceServerClient) -> None:
    answers: SimpleQueue[tuple[triton.InferResult | None, Exception | None]] = SimpleQueue()
    for _ in range(10):
        client.async_infer("add_sub", tensors(PAIR, "FP32"), lambda result, error: answers.put((result, error)))
    for _ in range(10):
        result, error = answers.get(timeout=10)
        assert result is not None, error
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), PAIR["INPUT0"] + 1)


def test_the_client_lists_the_repository(client: triton.InferenceServerClient) -> None:
    states = {(m.name, m.version): m.state for m in client.get_model_repository_index().models}
    assert states["add_sub", "1"] == "READY"
    assert states["broken", "1"] == "UNAVAILABLE"
