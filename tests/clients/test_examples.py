"""The checks of Triton's example clients (client repository, src/python/examples), written anew for this project.

A comment names the example of each test. The server's name is `triton`, as set by `--server-name`.
"""

from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.clients.tensors import PAIR, inputs
from tests.servers import RunningServer


def test_a_client_reads_health_and_metadata(client: triton.InferenceServerClient) -> None:  # simple_grpc_health_metadata.py
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.get_server_metadata().name == "triton"
    assert client.get_model_metadata("simple").name == "simple"
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_metadata("wrong_model_name")
    assert "Request for unknown model" in caught.value.message()


def test_a_client_loads_and_unloads_models(
    explicit_client: triton.InferenceServerClient,
) -> None:  # simple_grpc_model_control.py
    client = explicit_client
    assert not client.is_model_ready("strings")
    client.load_model("strings")
    assert client.is_model_ready("strings")
    client.unload_model("strings")
    assert not client.is_model_ready("strings")
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("wrong_model_name")
    assert "failed to load" in caught.value.message()


def test_the_index_follows_loads_and_unloads(explicit_client: triton.InferenceServerClient) -> None:
    def states() -> dict[str, str]:
        return {model.name: model.state for model in explicit_client.get_model_repository_index().models}

    assert (states()["simple"], states()["strings"]) == ("READY", "")
    explicit_client.load_model("strings")
    assert states()["strings"] == "READY"
    explicit_client.unload_model("strings")
    assert states()["strings"] == ""
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'strings' is not found"):
        explicit_client.infer("strings", inputs({"INPUT": np.array([[b"a"]], np.object_)}))


def test_files_sent_by_clients_are_refused(explicit_client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="files are never taken from clients") as caught:
        explicit_client.load_model("simple", config="{}", files={"file:1/model.onnx": b"model"})
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert explicit_client.is_model_ready("simple")


def test_a_client_may_set_channel_arguments(
    server: RunningServer,
) -> None:  # simple_grpc_custom_args_client.py, simple_grpc_keepalive_client.py
    arguments = [("grpc.max_message_length", 2**31 - 1), ("grpc.keepalive_time_ms", 200_000)]
    with triton.InferenceServerClient(server.address, channel_args=arguments) as client:
        np.testing.assert_array_equal(client.infer("simple", inputs(PAIR)).as_numpy("OUTPUT0"), PAIR["INPUT0"] + 1)


def test_a_client_may_use_keepalive(server: RunningServer) -> None:  # simple_grpc_keepalive_client.py
    options = triton.KeepAliveOptions(2**31 - 1, 20_000, False, 2)
    with triton.InferenceServerClient(server.address, keepalive_options=options) as client:
        assert client.infer("simple", inputs(PAIR)).as_numpy("OUTPUT1") is not None


def test_a_timeout_of_the_client_is_a_deadline(
    client: triton.InferenceServerClient,
) -> None:  # client_timeout_test in qa/L0_client_timeout
    with pytest.raises(InferenceServerException, match="Deadline Exceeded") as caught:
        client.infer("slow", inputs({"n": np.array(300_000)}), client_timeout=0.05)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_generated_stubs_may_send_raw_and_typed_contents(server: RunningServer) -> None:  # grpc_client.py, grpc_explicit_*.py
    stub = service_pb2_grpc.GRPCInferenceServiceStub(server.channel)
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="simple", version="1"))
    assert config.config.input[0].data_type == model_config_pb2.TYPE_INT32
    raw = service_pb2.ModelInferRequest(model_name="simple")
    typed = service_pb2.ModelInferRequest(model_name="simple")
    for name, array in PAIR.items():
        raw.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        raw.raw_input_contents.append(array.tobytes())
        typed.inputs.add(name=name, datatype="INT32", shape=[1, 16]).contents.int_contents.extend(array[0].tolist())
    for request in (raw, typed):
        answer = stub.ModelInfer(request)
        got = np.frombuffer(answer.raw_output_contents[0], np.int32)
        np.testing.assert_array_equal(got, PAIR["INPUT0"][0] + 1)


def test_parameters_of_sequences_are_ignored(client: triton.InferenceServerClient) -> None:
    # simple_grpc_sequence_stream_infer_client.py sends these; a stateless model may ignore them
    result = client.infer("simple", inputs(PAIR), sequence_id=7, sequence_start=True, priority=1, parameters={"colour": "blue"})
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), PAIR["INPUT0"] + 1)


def test_a_health_probe_is_answered(server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "simple"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING


def test_a_client_can_call_the_service_by_reflection_alone(server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelReady")
        request = message_factory.GetMessageClass(method.input_type)(name="simple")
        response_class = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            lambda message: message.SerializeToString(),
            response_class.FromString,
        )
        assert call(request).ready


def test_a_repository_written_for_triton_loads_unchanged(client: triton.InferenceServerClient, triton_repository: Path) -> None:
    index = {(model.name, model.version): model.state for model in client.get_model_repository_index().models}
    assert set(index.values()) == {"READY"}
    assert {version for name, version in index if name == "chosen"} == {"1", "3"}
    assert {version for name, version in index if name == "newest"} == {"2", "3"}
    assert not list(triton_repository.rglob("model.json"))


@pytest.mark.parametrize(
    ("model", "version", "added"), [("chosen", "1", 1), ("chosen", "", 3), ("newest", "2", 2), ("renamed", "", 1)]
)
def test_version_policies_and_file_names_are_respected(
    client: triton.InferenceServerClient, model: str, version: str, added: int
) -> None:
    result = client.infer(model, inputs({"x": np.zeros((1, 2), np.float32)}), model_version=version)
    assert result.as_numpy("y").tolist() == [[added, added]]


def test_a_version_outside_the_policy_is_not_served(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="version 2 is not found"):
        client.infer("chosen", inputs({"x": np.zeros((1, 2), np.float32)}), model_version="2")


def test_clients_see_the_declared_shapes_of_reshaped_tensors(client: triton.InferenceServerClient) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    result = client.infer("squares", inputs({"x": x}))
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * x)
    assert client.get_model_metadata("squares", as_json=True)["inputs"][0]["shape"] == ["-1", "4"]
    assert list(client.get_model_config("squares").config.input[0].reshape.shape) == [2, 2]
