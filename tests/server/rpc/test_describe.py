"""Tests how models are described in messages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from turnout_proto.model_config_pb2 import DataType, ModelConfig
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.metrics import Series
from turnout_server.core.model_config import ModelConfiguration, Queue, QueuePolicy, TensorConfig
from turnout_server.core.signatures import Signature, TensorSpec, declared
from turnout_server.models.config_pbtxt import interpret
from turnout_server.models.deployments import Deployment, DeviceReport
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.repository import IndexEntry
from turnout_server.models.verification import Parity
from turnout_server.rpc import describe

from tests.server.fakes import AddingSession, spec


def version(max_batch_size: int = 8, devices: tuple[str, ...] = ("cpu",), **configuration: Any) -> ModelVersion:
    inputs = (spec("x", -1, 4), spec("text", -1, -1, datatype="BYTES"))
    signature = Signature(inputs, (spec("y", -1, 2, datatype="FP16"),), max_batch_size)
    config = ModelConfiguration("m", **configuration)
    batchable = bool(max_batch_size) and config.batches
    deployments = {device: Deployment(("m", "3", device), AddingSession(), batchable=batchable) for device in devices}
    return ModelVersion("m", 3, config, signature, deployments, unavailable={})


def test_metadata_includes_the_batch_dimension_and_the_configuration_does_not() -> None:
    model = version()
    shapes = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in describe.metadata(model, [1, 3]).inputs]
    assert shapes == [("x", "FP32", [-1, 4]), ("text", "BYTES", [-1, -1])]
    config = describe.configuration(model)
    assert [(each.name, list(each.dims)) for each in config.input] == [("x", [4]), ("text", [-1])]
    assert list(describe.metadata(model, [1, 3]).versions) == ["1", "3"]
    assert describe.metadata(model, []).platform == config.platform == "onnxruntime_onnx"


def test_without_a_batch_dimension_both_have_the_whole_shape() -> None:
    config = describe.configuration(version(max_batch_size=0))
    assert [list(each.dims) for each in config.input] == [[-1, 4], [-1, -1]]
    assert not config.HasField("dynamic_batching")


def test_the_configuration_describes_queues_and_batching() -> None:
    default = QueuePolicy(max_size=9, timeout_us=7, timeout_override=False, rejects=False)
    queue = Queue((4, 8), 5, levels=2, default_level=1, policy=default, policies={2: QueuePolicy(max_size=3)})
    batching = describe.configuration(version(queue=queue)).dynamic_batching
    policy = batching.default_queue_policy
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([4, 8], 5)
    assert (policy.max_queue_size, policy.default_timeout_microseconds, policy.timeout_action) == (9, 7, 1)
    assert not policy.allow_timeout_override
    assert (batching.priority_levels, batching.default_priority_level) == (2, 1)
    assert {level: policy.max_queue_size for level, policy in batching.priority_queue_policy.items()} == {2: 3}
    assert not describe.configuration(version(batches=False)).HasField("dynamic_batching")


def test_every_device_is_an_instance_group() -> None:
    groups = describe.configuration(version(devices=("cpu", "cuda:1", "cpu:slow"))).instance_group
    kinds = [(group.name, group.kind, list(group.gpus)) for group in groups]
    assert kinds == [("m_cpu", 2, []), ("m_cuda:1", 1, [1]), ("m_cpu:slow", 2, [])]


def test_a_group_has_the_instances_and_the_weight_of_the_configuration() -> None:
    model = version(devices=("cpu", "cuda:1"), instances={"cpu": 2}, weight=1 / 3)
    groups = describe.configuration(model).instance_group
    assert [(group.count, group.rate_limiter.priority) for group in groups] == [(2, 3), (0, 3)]
    assert not any(group.HasField("rate_limiter") for group in describe.configuration(version()).instance_group)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "instance_group { kind: KIND_CPU count: 2 rate_limiter { priority: 7 } }",
        "dynamic_batching { preferred_batch_size: [ 2, 8 ] max_queue_delay_microseconds: 5 }",
        "dynamic_batching { priority_levels: 2 default_priority_level: 2 priority_queue_policy { key: 1 value {} } }",
        "dynamic_batching { default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 max_queue_size: 1 } }",
        'parameters { key: "turnout.objective" value { string_value: "cost" } }',
        'parameters { key: "turnout.latency_target_us" value { string_value: "20000" } }',
    ],
)
def test_a_described_configuration_is_read_back_unchanged(text: str, tmp_path: Path) -> None:
    configured = interpret(text_format.Parse(f"max_batch_size: 8 {text}", ModelConfig()), "m", tmp_path)
    fields = ("queue", "instances", "weight", "objective", "latency_target_us")
    model = version(**{field: getattr(configured, field) for field in fields})
    described = interpret(describe.configuration(model), "m", tmp_path)
    for field in fields:
        assert getattr(described, field) == getattr(configured, field), field


@pytest.mark.parametrize(("versions", "choice"), [(None, "all"), (2, "latest"), ((1, 3), "specific")])
def test_the_version_policy_is_the_effective_one(versions: Any, choice: str) -> None:
    assert describe.configuration(version(versions=versions)).version_policy.WhichOneof("policy_choice") == choice


def test_turnouts_own_settings_are_described_as_parameters() -> None:
    files = {"": "other.onnx", "cuda": "model.fp16.onnx"}
    config = describe.configuration(
        version(files=files, default_device="cpu", batches=False, objective="cost", latency_target_us=5)
    )
    assert config.default_model_filename == "other.onnx"
    settings = {key: value.string_value for key, value in config.parameters.items() if not key.startswith("turnout.report.")}
    assert settings == {
        "turnout.file.cuda": "model.fp16.onnx",
        "turnout.default_device": "cpu",
        "turnout.batching": "off",
        "turnout.objective": "cost",
        "turnout.latency_target_us": "5",
    }


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_its_name_in_a_configuration(datatype: str) -> None:
    signature = Signature((spec("x", 1, datatype=datatype),), (spec("y", 1, datatype=datatype),), 0)
    model = ModelVersion("m", 1, ModelConfiguration("m"), signature, deployments={}, unavailable={})
    expected = "STRING" if datatype == "BYTES" else datatype
    assert DataType.Name(describe.configuration(model).input[0].data_type) == f"TYPE_{expected}"


def test_statistics_sum_over_the_devices() -> None:
    cpu, gpu, without_device = Series(), Series(), Series()
    for series, seconds, rows in [(cpu, 0.25, 1), (gpu, 0.5, 4)]:
        series.request_s.observe(2 * seconds)
        series.queue_s.observe(seconds)
        series.compute_s.observe(seconds)
        series.batch_rows.observe(rows)
        series.batches[rows].observe(0.0, seconds, 0.0)
        series.rows += rows
        series.last_s = seconds
    without_device.failures["INVALID_ARGUMENT"] += 2
    gpu.failures["CANCELLED"] += 1
    row = describe.statistics(version(devices=("cpu", "cuda:0")), {"cpu": cpu, "cuda:0": gpu, "": without_device})
    assert (row.name, row.version, row.inference_count, row.execution_count, row.last_inference) == ("m", "3", 5, 2, 500)
    stats = row.inference_stats
    assert (stats.success.count, stats.success.ns, stats.queue.ns, stats.compute_infer.ns) == (
        2,
        15 * 10**8,
        75 * 10**7,
        75 * 10**7,
    )
    assert stats.fail.count == 3
    assert [(batch.batch_size, batch.compute_infer.count) for batch in row.batch_stats] == [(1, 1), (4, 1)]
    assert row.response_stats["cpu"].success.count == 1
    assert (row.response_stats["cuda:0"].cancel.count, row.response_stats["cuda:0"].fail.count) == (1, 0)
    assert sorted(row.response_stats) == ["cpu", "cuda:0"]


def test_the_index_has_an_entry_per_model_version() -> None:
    (entry,) = describe.index([IndexEntry("m", "1", "UNAVAILABLE", "why")]).models
    assert (entry.name, entry.version, entry.state, entry.reason) == ("m", "1", "UNAVAILABLE", "why")


@pytest.mark.parametrize(("dims", "reshape"), [((4,), (2, 3)), ((-1,), (2, 2)), ((4,), (-1, 4)), ((4, 4), (15,)), ((0,), (1,))])
def test_a_reshape_that_would_lose_elements_is_refused_when_the_model_loads(
    dims: tuple[int, ...], reshape: tuple[int, ...]
) -> None:
    graph = TensorSpec("x", DATATYPES["FP32"], (-1,) * (len(reshape) + 1))
    with pytest.raises(FailedPrecondition, match="don't hold the same number of elements"):
        declared((graph,), (TensorConfig("x", "TYPE_FP32", dims, reshape),), 8, "input")


def test_the_load_report_is_part_of_the_parameters() -> None:
    report = DeviceReport(0.25, {"CPUExecutionProvider": 3, "CUDAExecutionProvider": 7}, Parity(2e-7, "golden"))
    gpu = Deployment(("m", "3", "cuda:0"), AddingSession(), report=report)
    model = replace(version(), deployments={"cuda:0": gpu}, unavailable={"cpu": FailedPrecondition("it is broken")})
    parameters = describe.configuration(model).parameters
    shown = parameters["turnout.report.cuda:0"].string_value
    assert (
        shown
        == "fp32; loaded in 0.250 s; nodes: 3 on CPUExecutionProvider, 7 on CUDAExecutionProvider; parity error: 2e-07 (golden)"
    )
    assert parameters["turnout.report.cpu"].string_value == "does not run here: it is broken"


def test_the_load_report_contains_the_buckets_and_what_was_found_out() -> None:
    report = DeviceReport(0.0, {}, Parity(None, ""), ("no CUDA graph for 8 rows",))
    gpu = Deployment(("m", "3", "cuda:0"), AddingSession(buckets=(1, 8)), report=report)
    shown = describe.configuration(replace(version(), deployments={"cuda:0": gpu})).parameters["turnout.report.cuda:0"]
    assert shown.string_value.endswith("; runs are padded to 1, 8 rows; no CUDA graph for 8 rows")
