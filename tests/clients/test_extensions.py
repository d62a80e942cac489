"""Tests of the extensions with tritonclient: classification, statistics, shared memory, traces, the log, and others."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from tests.clients.tensors import PAIR, inputs
from tests.servers import RunningServer

# Classification


def classes(client: triton.InferenceServerClient, model: str, x: np.ndarray, n: int) -> list[Any]:
    requested = [triton.InferRequestedOutput("y", class_count=n)]
    found: list[Any] = client.infer(model, inputs({"x": x}), outputs=requested).as_numpy("y").tolist()
    return found


def test_each_row_has_its_largest_classes_with_their_labels(client: triton.InferenceServerClient) -> None:
    x = np.array([[0.5, 1, 2, 4], [4, -3, 2, 1]], np.float32)
    assert classes(client, "classifier", x, 2) == [
        [b"8.000000:3:date", b"4.000000:2:cherry"],
        [b"8.000000:0:apple", b"4.000000:2:cherry"],
    ]


def test_a_request_for_too_many_classes_gets_all(client: triton.InferenceServerClient) -> None:
    found = classes(client, "unbatched_classifier", np.array([1, 2, 3, 4], np.float32), 9)
    assert found == [b"8.000000:3:date", b"6.000000:2:cherry", b"4.000000:1:banana", b"2.000000:0:apple"]


def test_integers_are_classified_without_decimals_and_labels(client: triton.InferenceServerClient) -> None:
    requested = [triton.InferRequestedOutput("OUTPUT0", class_count=1)]
    assert client.infer("simple", inputs(PAIR), outputs=requested).as_numpy("OUTPUT0").tolist() == [[b"16:15"]]


def test_text_cannot_be_classified(client: triton.InferenceServerClient) -> None:
    requested = [triton.InferRequestedOutput("OUTPUT", class_count=1)]
    with pytest.raises(InferenceServerException, match="class result not available for output of datatype BYTES"):
        client.infer("strings", inputs({"INPUT": np.array([[b"a"]], np.object_)}), outputs=requested)


# Statistics


def test_a_versions_statistics_count_requests_rows_and_runs(client: triton.InferenceServerClient) -> None:
    def row() -> Any:
        (only,) = client.get_inference_statistics("simple", "1").model_stats
        return only

    before = row()
    three_rows = {name: np.repeat(array, 3, axis=0) for name, array in PAIR.items()}
    for _ in range(5):
        client.infer("simple", inputs(three_rows))
    with pytest.raises(InferenceServerException):
        client.infer("simple", inputs({"INPUT0": PAIR["INPUT0"]}))
    after = row()
    assert after.inference_count - before.inference_count == 15
    assert after.execution_count - before.execution_count == 5
    stats, stats_before = after.inference_stats, before.inference_stats
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(stats, name).count - getattr(stats_before, name).count == 5
    assert stats.fail.count - stats_before.fail.count == 1
    assert stats.success.ns > stats.compute_infer.ns > 0
    runs, runs_before = (
        {batch.batch_size: batch.compute_infer.count for batch in each.batch_stats} for each in (after, before)
    )
    assert runs[3] - runs_before.get(3, 0) == 5
    assert after.last_inference > 1_500_000_000_000  # ms since the epoch
    assert after.response_stats["cpu"].success.count == stats.success.count


def test_statistics_without_a_name_include_every_ready_version(client: triton.InferenceServerClient) -> None:
    rows = {(row.name, row.version) for row in client.get_inference_statistics().model_stats}
    assert {("simple", "1"), ("chosen", "1"), ("chosen", "3"), ("newest", "2"), ("newest", "3")} <= rows


# Shared memory


class Memory:
    """Registers regions for a client, and removes them after the test."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self._client = client
        self._handles: list[Any] = []

    def region(self, byte_size: int) -> tuple[str, Any]:
        name = f"turnout-{uuid.uuid4().hex}"
        handle = shm.create_shared_memory_region(name, f"/{name}", byte_size)
        self._handles.append(handle)
        self._client.register_system_shared_memory(name, f"/{name}", byte_size)
        return name, handle

    def close(self) -> None:
        self._client.unregister_system_shared_memory()
        for handle in self._handles:
            shm.destroy_shared_memory_region(handle)


@pytest.fixture
def memory(client: triton.InferenceServerClient) -> Iterator[Memory]:
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()  # Triton's examples start with both calls
    memory = Memory(client)
    yield memory
    memory.close()


def test_inputs_and_outputs_may_be_in_shared_memory(client: triton.InferenceServerClient, memory: Memory) -> None:
    source, source_handle = memory.region(128)
    target, target_handle = memory.region(128)
    shm.set_shared_memory_region(source_handle, list(PAIR.values()))
    given = [triton.InferInput(name, [1, 16], "INT32") for name in PAIR]
    requested = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    for position, (tensor, output) in enumerate(zip(given, requested, strict=True)):
        tensor.set_shared_memory(source, 64, offset=64 * position)
        output.set_shared_memory(target, 64, offset=64 * position)
    result = client.infer("simple", given, outputs=requested)
    assert list(result.get_response().raw_output_contents) == [b"", b""]
    for position, expected in enumerate([PAIR["INPUT0"] + 1, PAIR["INPUT0"] - 1]):
        got = shm.get_contents_as_numpy(target_handle, np.int32, [1, 16], offset=64 * position)
        np.testing.assert_array_equal(got, expected)
        assert result.get_output(f"OUTPUT{position}").parameters["shared_memory_region"].string_param == target


def test_shared_memory_and_raw_contents_may_be_mixed(client: triton.InferenceServerClient, memory: Memory) -> None:
    source, handle = memory.region(64)
    shm.set_shared_memory_region(handle, [PAIR["INPUT0"]])
    first = triton.InferInput("INPUT0", [1, 16], "INT32")
    first.set_shared_memory(source, 64)
    result = client.infer("simple", [first, *inputs({"INPUT1": PAIR["INPUT1"]})])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), PAIR["INPUT0"] + 1)


def test_text_may_be_in_shared_memory(client: triton.InferenceServerClient, memory: Memory) -> None:
    text = np.array([["grüß".encode(), b""]], np.object_)
    from tritonclient.utils import serialize_byte_tensor

    data = serialize_byte_tensor(text)
    source, handle = memory.region(len(data.item()))
    shm.set_shared_memory_region(handle, [data])
    tensor = triton.InferInput("INPUT", [1, 2], "BYTES")
    tensor.set_shared_memory(source, len(data.item()))
    assert client.infer("strings", [tensor]).as_numpy("OUTPUT").tolist() == text.tolist()


def test_the_status_lists_the_registered_regions(client: triton.InferenceServerClient, memory: Memory) -> None:
    name, _ = memory.region(100)
    region = client.get_system_shared_memory_status(name).regions[name]
    assert (region.name, region.key, region.offset, region.byte_size) == (name, f"/{name}", 0, 100)
    assert list(client.get_system_shared_memory_status().regions) == [name]


def test_a_region_too_small_for_its_output_is_refused(client: triton.InferenceServerClient, memory: Memory) -> None:
    target, _ = memory.region(63)
    requested = triton.InferRequestedOutput("OUTPUT0")
    requested.set_shared_memory(target, 63)
    with pytest.raises(InferenceServerException, match="should be at least 64 bytes"):
        client.infer("simple", inputs(PAIR), outputs=[requested])


def test_an_unregistered_region_is_not_found(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("INPUT0", [1, 16], "INT32")
    tensor.set_shared_memory("nowhere", 64)
    with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'nowhere'"):
        client.infer("simple", [tensor, *inputs({"INPUT1": PAIR["INPUT1"]})])


def test_87_cuda_shared_memory_cannot_be_registered_but_may_be_unregistered(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported"):
        client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 64)
    client.unregister_cuda_shared_memory("region")


# Traces and the log


def test_traces_are_written_while_they_are_enabled(client: triton.InferenceServerClient) -> None:
    path = Path(client.get_trace_settings(as_json=True)["settings"]["trace_file"]["value"][0])
    client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"})
    for number in range(4):
        client.infer("simple", inputs(PAIR), request_id=f"traced-{number}")
    settings = client.update_trace_settings(settings={"trace_level": None, "trace_rate": None, "trace_count": None})
    assert list(settings.settings["trace_level"].value) == ["OFF"]
    traces = [json.loads(line) for line in path.read_text().splitlines()]
    assert [trace["request_id"] for trace in traces] == ["traced-0", "traced-1"]
    times = [stamp["ns"] for stamp in traces[0]["timestamps"]]
    assert times == sorted(times)
    assert (traces[0]["model_name"], traces[0]["model_version"], traces[0]["device"]) == ("simple", "1", "cpu")


def test_the_trace_setting_of_a_misspelled_model_names_the_one_that_was_meant(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="unknown model: 'simpel' is not found; did you mean 'simple'"):
        client.get_trace_settings("simpel")


def test_a_model_may_have_its_own_trace_setting(client: triton.InferenceServerClient) -> None:
    client.update_trace_settings("simple", {"trace_rate": "7"})
    assert list(client.get_trace_settings("simple").settings["trace_rate"].value) == ["7"]
    assert list(client.get_trace_settings("strings").settings["trace_rate"].value) == ["1000"]
    client.update_trace_settings("simple", {"trace_rate": None})
    assert list(client.get_trace_settings("simple").settings["trace_rate"].value) == ["1000"]


def test_traces_of_a_model_that_does_not_exist_are_not_found(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nowhere' is not found"):
        client.update_trace_settings("nowhere", {"trace_rate": "7"})


def test_the_log_level_can_be_changed_and_restored(client: triton.InferenceServerClient) -> None:
    assert client.get_log_settings(as_json=True)["settings"]["log_info"]["bool_param"]
    quiet = client.update_log_settings({"log_info": False, "log_verbose_level": 1, "log_format": "ISO8601"}, as_json=True)
    assert not quiet["settings"]["log_info"]["bool_param"]
    assert quiet["settings"]["log_verbose_level"]["uint32_param"] == 1
    loud = client.update_log_settings({"log_info": True, "log_verbose_level": 0, "log_format": "default"}, as_json=True)
    assert loud["settings"]["log_info"]["bool_param"]


def test_clients_cannot_change_the_log_file(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="log file location can not be updated"):
        client.update_log_settings({"log_file": "elsewhere"})


# Compression, cancellation and configuration


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_calls_and_streams_may_be_compressed(client: triton.InferenceServerClient, algorithm: str) -> None:
    result = client.infer("simple", inputs(PAIR), compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), PAIR["INPUT0"] + 1)
    answers: SimpleQueue[Any] = SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm=algorithm)
    client.async_stream_infer("simple", inputs(PAIR))
    assert answers.get(timeout=20)[1] is None
    client.stop_stream()


def test_a_cancelled_request_ends_at_once_and_does_not_affect_the_next(client: triton.InferenceServerClient) -> None:
    answers: SimpleQueue[Any] = SimpleQueue()
    call = client.async_infer("slow", inputs({"n": np.array(300_000)}), lambda result, error: answers.put(error))
    call.cancel()
    error = answers.get(timeout=20)
    assert error.status() == "StatusCode.CANCELLED"
    np.testing.assert_array_equal(client.infer("simple", inputs(PAIR)).as_numpy("OUTPUT1"), PAIR["INPUT0"] - 1)


def test_the_effective_configuration_is_returned(client: triton.InferenceServerClient, server: RunningServer) -> None:
    config = client.get_model_config("simple", as_json=True)["config"]
    assert (config["name"], config["platform"], config["backend"]) == ("simple", "onnxruntime_onnx", "onnxruntime")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (8, ["16"])
    assert config["instance_group"] == [{"name": "simple_cpu", "kind": "KIND_CPU", "count": 1}]
    assert "dynamic_batching" in config
    derived = client.get_model_config("slow").config
    assert [(spec.name, spec.data_type, list(spec.dims)) for spec in derived.input] == [("n", 9, [])]
