"""Every field of a model configuration is acted on, noted, or refused; none is silently ignored."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from turnout_proto.model_config_pb2 import ModelConfig
from turnout_server.core.errors import FailedPrecondition, InvalidRequest
from turnout_server.core.model_config import ModelConfiguration, QueuePolicy
from turnout_server.models import config_pbtxt


def read(directory: Path, text: str) -> ModelConfiguration:
    (directory / "config.pbtxt").write_text(text)
    return config_pbtxt.read(directory, "m")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model's directory with a label file and warm-up data."""
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "data").write_bytes(bytes(4))
    return tmp_path


# Field by field

TENSOR = 'name: "x" data_type: TYPE_FP32 dims: [ 4 ]'
#: By field: a text that sets it, and one that doesn't; the two configurations differ.
ACTED_ON = {
    "max_batch_size": ("max_batch_size: 8", ""),
    "default_model_filename": ('default_model_filename: "other.onnx"', ""),
    "parameters": ('parameters { key: "turnout.batching" value { string_value: "off" } }', ""),
    "version_policy.latest": ("version_policy { latest { num_versions: 2 } }", ""),
    "version_policy.all": ("version_policy { all {} }", ""),
    "version_policy.specific": ("version_policy { specific { versions: [ 2, 4 ] } }", ""),
    "input.name": ('input { name: "y" }', 'input { name: "x" }'),
    "input.data_type": ("input { data_type: TYPE_FP32 }", "input {}"),
    "input.dims": ("input { dims: [ 4 ] }", "input {}"),
    "input.reshape": ("input { reshape { shape: [ 2, 2 ] } }", "input {}"),
    "output.name": ('output { name: "y" }', 'output { name: "x" }'),
    "output.data_type": ("output { data_type: TYPE_FP32 }", "output {}"),
    "output.dims": ("output { dims: [ 4 ] }", "output {}"),
    "output.reshape": ("output { reshape { shape: [ 2, 2 ] } }", "output {}"),
    "output.label_filename": ('output { label_filename: "labels.txt" }', "output {}"),
    "instance_group.kind": ("instance_group { kind: KIND_CPU }", ""),
    "instance_group.gpus": ("instance_group { kind: KIND_GPU gpus: [ 1 ] }", "instance_group { kind: KIND_GPU }"),
    "instance_group.count": ("instance_group { kind: KIND_CPU count: 2 }", "instance_group { kind: KIND_CPU }"),
    "instance_group.rate_limiter.priority": ("instance_group { rate_limiter { priority: 2 } }", "instance_group {}"),
    "dynamic_batching.preferred_batch_size": (
        "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 4 ] }",
        "max_batch_size: 4",
    ),
    "dynamic_batching.max_queue_delay_microseconds": ("dynamic_batching { max_queue_delay_microseconds: 1 }", ""),
    "dynamic_batching.priority_levels": (
        "dynamic_batching { priority_levels: 2 default_priority_level: 1 }",
        "dynamic_batching { default_priority_level: 1 }",
    ),
    "dynamic_batching.default_priority_level": ("dynamic_batching { default_priority_level: 1 }", ""),
    "dynamic_batching.priority_queue_policy": (
        "dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 9 } } }",
        "",
    ),
    "dynamic_batching.default_queue_policy.max_queue_size": (
        "dynamic_batching { default_queue_policy { max_queue_size: 9 } }",
        "",
    ),
    "dynamic_batching.default_queue_policy.timeout_action": (
        "dynamic_batching { default_queue_policy { timeout_action: DELAY } }",
        "",
    ),
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": (
        "dynamic_batching { default_queue_policy { default_timeout_microseconds: 5 } }",
        "",
    ),
    "dynamic_batching.default_queue_policy.allow_timeout_override": (
        "dynamic_batching { default_queue_policy { default_timeout_microseconds: 5 allow_timeout_override: true } }",
        "dynamic_batching { default_queue_policy { default_timeout_microseconds: 5 } }",
    ),
    "optimization.graph": ("optimization { graph { level: 1 } }", ""),
    "optimization.execution_accelerators": (
        "optimization { execution_accelerators { gpu_execution_accelerator "
        '{ name: "cuda" parameters { key: "use_tf32" value: "0" } } } }',
        "",
    ),
    "model_warmup.batch_size": ("model_warmup { batch_size: 2 }", "model_warmup {}"),
    "model_warmup.count": ("model_warmup { count: 2 }", "model_warmup {}"),
    "model_warmup.inputs": (
        'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } } }',
        "model_warmup {}",
    ),
}
#: By field: a text that sets it, which has no effect and is noted in the log.
NOTED = {
    "metric_tags": 'metric_tags { key: "a" value: "b" }',
    "response_cache": "response_cache { enable: true }",
    "model_metrics": "model_metrics {}",
    "input.format": "input { format: FORMAT_NCHW }",
    "instance_group.rate_limiter.resources": 'instance_group { rate_limiter { resources { name: "r" global: true } } }',
    "instance_group.profile": 'instance_group { profile: "p" }',
    "instance_group.host_policy": 'instance_group { host_policy: "p" }',
    "optimization.priority": "optimization { priority: PRIORITY_MAX }",
    "optimization.cuda": "optimization { cuda { graphs: true } }",
    "optimization.input_pinned_memory": "optimization { input_pinned_memory { enable: true } }",
    "optimization.output_pinned_memory": "optimization { output_pinned_memory { enable: true } }",
    "optimization.gather_kernel_buffer_threshold": "optimization { gather_kernel_buffer_threshold: 1 }",
    "optimization.eager_batching": "optimization { eager_batching: true }",
}
#: By field: a text that is refused, and words of the error.
REFUSED = {
    "name": ('name: "other"', "names model 'other', but its directory is 'm'"),
    "platform": ('platform: "pytorch_libtorch"', "'pytorch_libtorch' is not served here: only 'onnxruntime_onnx' is"),
    "backend": ('backend: "python"', "'python' is not served here"),
    "runtime": ('runtime: "libother.so"', "only ONNX Runtime is served"),
    "sequence_batching": ("sequence_batching {}", "requests that depend on earlier ones are not supported"),
    "ensemble_scheduling": ("ensemble_scheduling {}", "export them as one ONNX graph"),
    "batch_input": ("batch_input {}", "compute them in the ONNX graph"),
    "batch_output": ("batch_output {}", "compute them in the ONNX graph"),
    "cc_model_filenames": ('cc_model_filenames { key: "8.0" value: "a" }', "set turnout.file.<device> in parameters"),
    "model_operations": ("model_operations {}", "never loaded"),
    "model_transaction_policy": ("model_transaction_policy { decoupled: true }", "one request, one answer"),
    "model_repository_agents": ("model_repository_agents {}", "repository agents: not supported"),
    "input.is_shape_tensor": ("input { is_shape_tensor: true }", "only TensorRT knows"),
    "input.is_non_linear_format_io": ("input { is_non_linear_format_io: true }", "only TensorRT knows"),
    "input.allow_ragged_batch": ('input { name: "x" allow_ragged_batch: true }', "input 'x' is declared 'allow_ragged_batch'"),
    "input.optional": (
        'max_batch_size: 8 input { name: "x" optional: true }',
        "input 'x' is declared 'optional', which needs max_batch_size: 0 (it is 8)",
    ),
    "output.is_shape_tensor": ("output { is_shape_tensor: true }", "only TensorRT knows"),
    "output.is_non_linear_format_io": ("output { is_non_linear_format_io: true }", "only TensorRT knows"),
    "instance_group.secondary_devices": ("instance_group { secondary_devices {} }", "secondary devices"),
    "instance_group.passive": ("instance_group { passive: true }", "passive instances"),
}
#: Fields that need no effect: names for people, and an order that answers have anyway.
HARMLESS = {"instance_group.name", "model_warmup.name", "dynamic_batching.preserve_ordering"}

#: Sections whose fields are tested one by one; any other message counts as one field.
OPENED = {
    "input",
    "output",
    "instance_group",
    "instance_group.rate_limiter",
    "dynamic_batching",
    "dynamic_batching.default_queue_policy",
    "optimization",
    "version_policy",
    "model_warmup",
}


def fields(descriptor: Any, prefix: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        path = f"{prefix}{field.name}"
        if path in OPENED and field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from fields(field.message_type, f"{path}.")
        else:
            yield path


def test_every_field_of_a_configuration_is_tested() -> None:
    tested = [*ACTED_ON, *NOTED, *REFUSED, *HARMLESS]
    assert sorted(tested) == sorted(fields(ModelConfig.DESCRIPTOR))


@pytest.mark.parametrize("field", ACTED_ON)
def test_a_field_acted_on_changes_what_the_configuration_means(directory: Path, field: str) -> None:
    text, without = ACTED_ON[field]
    configuration, plain = read(directory, text), read(directory, without)
    assert configuration != plain
    assert configuration.notes == ()


@pytest.mark.parametrize("field", NOTED)
def test_a_field_without_effect_is_noted(directory: Path, field: str) -> None:
    assert read(directory, NOTED[field]).notes == (field,)


@pytest.mark.parametrize("field", REFUSED)
def test_an_unsupported_field_is_refused_with_one_line_of_text(directory: Path, field: str) -> None:
    text, words = REFUSED[field]
    with pytest.raises(FailedPrecondition) as caught:
        read(directory, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# Turnout's own parameters


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def test_turnouts_parameters_are_read(directory: Path) -> None:
    text = parameter("turnout.default_device", "cuda,cpu") + parameter("turnout.devices", "cpu, cuda:0")
    text += parameter("turnout.objective", "energy") + parameter("turnout.latency_target_us", "20000")
    configuration = read(directory, text + parameter("turnout.file.cuda", "model.fp16.onnx"))
    assert configuration.default_device == "cuda,cpu"
    assert configuration.devices == ("cpu", "cuda:0")
    assert configuration.file_for("cuda:0", "cuda") == "model.fp16.onnx"
    assert configuration.file_for("cpu", "cpu") == "model.onnx"
    assert (configuration.objective, configuration.latency_target_us) == ("energy", 20_000)
    assert configuration.notes == ()


def test_files_in_other_precisions_are_listed_for_every_device_or_for_one(directory: Path) -> None:
    text = parameter("turnout.variants", "model.int8.onnx, model.fp16.onnx,")
    configuration = read(directory, text + parameter("turnout.variants.cuda", "model.fp16.onnx"))
    assert configuration.variants_for("cpu", "cpu") == ("model.int8.onnx", "model.fp16.onnx")
    assert configuration.variants_for("cuda:0", "cuda") == ("model.fp16.onnx",)
    assert read(directory, text + parameter("turnout.variants.cpu", "")).variants_for("cpu", "cpu") == ()


def test_a_misspelt_turnout_parameter_is_refused_with_a_suggestion(directory: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"did you mean turnout\.default_device\?"):
        read(directory, parameter("turnout.default_devise", "cpu"))


@pytest.mark.parametrize("key", ["anything", "enable_mem_arena_too"])
def test_a_parameter_without_effect_is_noted(directory: Path, key: str) -> None:
    assert read(directory, parameter(key, "1")).notes == (f"parameters['{key}']",)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("turnout.batching", "maybe", "must be 'on' or 'off'"),
        ("turnout.devices", "cpu,tpu", "unknown device 'tpu'"),
        ("turnout.default_device", "gpu", "unknown device 'gpu'"),
        ("turnout.objective", "speed", "'turnout.objective' is 'speed'; it must be one of latency, cost, energy"),
        ("turnout.objective", "", "is ''; it must be one of"),
        ("turnout.latency_target_us", "0", "'turnout.latency_target_us' is '0'; it must be a whole number such as 20000"),
        ("turnout.latency_target_us", "-5", "it must be a whole number"),
        ("turnout.latency_target_us", "1.5", "it must be a whole number"),
        ("turnout.latency_target_us", "20 ms", "it must be a whole number"),
        ("turnout.latency_target_us", "", "it must be a whole number"),
        ("turnout.latency_target_us", "9" * 5000, "it must be a whole number"),
        ("turnout.file.tpu", "model.onnx", "kinds are"),
        ("turnout.file.cpu", "../model.onnx", "must be a plain name"),
        ("turnout.file.cpu", "", "must be a plain name"),
        ("turnout.variants", "int8/model.onnx", "must be a plain name"),
        ("turnout.variants.tpu", "model.int8.onnx", "kinds are"),
    ],
)
def test_a_wrong_value_of_a_turnout_parameter_is_refused(directory: Path, key: str, value: str, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        read(directory, parameter(key, value))


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("", ()),
        ("instance_group { kind: KIND_CPU }", ("cpu",)),
        ("instance_group { kind: KIND_GPU }", ("cuda",)),
        ("instance_group { kind: KIND_GPU gpus: [ 0, 2 ] } instance_group { kind: KIND_CPU }", ("cuda:0", "cuda:2", "cpu")),
        ("instance_group { kind: KIND_AUTO }", ()),
        ("instance_group { kind: KIND_CPU } instance_group {}", ()),
        ("instance_group { kind: KIND_GPU }" + parameter("turnout.devices", "cpu"), ("cpu",)),
    ],
)
def test_instance_groups_say_where_a_model_may_run(directory: Path, groups: str, devices: tuple[str, ...]) -> None:
    assert read(directory, groups).devices == devices


GPU_0 = "kind: KIND_GPU gpus: [ 0 ]"


@pytest.mark.parametrize(
    ("groups", "instances"),
    [
        ("", {}),
        ("instance_group { kind: KIND_CPU }", {}),
        ("instance_group { kind: KIND_CPU count: 2 }", {"cpu": 2}),
        ("instance_group { kind: KIND_GPU count: 2 }", {"cuda": 2}),
        ("instance_group { kind: KIND_GPU gpus: [ 0, 1 ] count: 2 }", {"cuda:0": 2, "cuda:1": 2}),
        (f"instance_group {{ {GPU_0} count: 2 }} instance_group {{ {GPU_0} count: 1 }}", {"cuda:0": 3}),
        ("instance_group { count: 4 } instance_group { kind: KIND_CPU count: 1 }", {"": 4, "cpu": 1}),
    ],
)
def test_instance_groups_say_how_many_runs_may_go_on_at_once(directory: Path, groups: str, instances: dict[str, int]) -> None:
    assert read(directory, groups).instances == instances


@pytest.mark.parametrize(
    ("priorities", "weight", "notes"),
    [
        ([], 1, 0),
        ([0], 1, 0),
        ([1], 1, 0),
        ([2], 1 / 2, 0),
        ([4, 4], 1 / 4, 0),
        ([4, 2], 1 / 2, 1),
        ([0, 2], 1, 1),
    ],
)
def test_a_rate_limiters_priority_divides_a_models_weight(
    directory: Path, priorities: list[int], weight: float, notes: int
) -> None:
    groups = [f"instance_group {{ rate_limiter {{ priority: {priority} }} }}" for priority in priorities]
    configuration = read(directory, " ".join(groups))
    assert configuration.weight == weight
    assert len(configuration.notes) == notes


def test_a_negative_count_is_refused(directory: Path) -> None:
    with pytest.raises(FailedPrecondition, match="has a count of -1; it must not be negative"):
        read(directory, "instance_group { count: -1 }")


# Files


def test_a_missing_file_is_an_empty_configuration(tmp_path: Path) -> None:
    configuration = config_pbtxt.read(tmp_path, "m")
    assert configuration == ModelConfiguration("m")
    assert configuration.max_batch_size is None


@pytest.mark.parametrize("text", ["max_batch_size: many", "max_batch_sizes: 8", "input {", "max_batch_size: -1"])
def test_an_invalid_configuration_is_refused(directory: Path, text: str) -> None:
    with pytest.raises(FailedPrecondition):
        read(directory, text)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(FailedPrecondition, match="is not a model configuration"):
        config_pbtxt.read(tmp_path, "m")


@pytest.mark.parametrize("file", ["missing.txt", "../labels.txt", "/etc/hostname"])
def test_a_label_file_must_be_a_plain_file_of_the_model(directory: Path, file: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        read(directory, f'output {{ name: "y" label_filename: "{file}" }}')
    assert str(directory) not in str(caught.value)


def test_a_byte_order_mark_is_passed_over_and_another_encoding_is_named(directory: Path) -> None:
    (directory / "config.pbtxt").write_text("max_batch_size: 8", encoding="utf-8-sig")
    assert config_pbtxt.read(directory, "m").max_batch_size == 8
    (directory / "config.pbtxt").write_text("max_batch_size: 8", encoding="utf-16")
    with pytest.raises(FailedPrecondition, match="it is not UTF-8 text"):
        config_pbtxt.read(directory, "m")


@pytest.mark.parametrize("source", ["zero_data: true", "random_data: true", 'input_data_file: "data"'])
@pytest.mark.parametrize("dims", ["-1", "4, -1", "-2"])
def test_a_free_dimension_in_a_warm_up_is_refused_for_every_kind_of_data(directory: Path, source: str, dims: str) -> None:
    with pytest.raises(FailedPrecondition, match="none of them may be free"):
        read(directory, f'model_warmup {{ inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: [{dims}] {source} }} }} }}')


def test_warm_up_data_needs_a_kind_and_a_datatype(directory: Path) -> None:
    with pytest.raises(FailedPrecondition, match="needs a data_type and zero_data, random_data or input_data_file"):
        read(directory, 'model_warmup { inputs { key: "x" value { dims: [ 4 ] zero_data: true } } }')


# Queues


def test_each_priority_may_have_its_own_policy(directory: Path) -> None:
    policies = """
      default_queue_policy { max_queue_size: 9 }
      priority_queue_policy { key: 2 value { default_timeout_microseconds: 5 timeout_action: DELAY } }
    """
    queue = read(directory, f"dynamic_batching {{ priority_levels: 3 default_priority_level: 2 {policies} }}").queue
    assert (queue.levels, queue.default_level) == (3, 2)
    assert queue.policy_of(1) == QueuePolicy(max_size=9)
    assert queue.policy_of(2) == QueuePolicy(timeout_us=5, timeout_override=False, rejects=False)


def test_preferred_sizes_are_sorted(directory: Path) -> None:
    text = "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 100 }"
    queue = read(directory, text).queue
    assert (queue.preferred_rows, queue.max_delay_us) == ((4, 8), 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preferred_batch_size: [ 4, 0 ]", "preferred_batch_size has 0; each must be from 1 to max_batch_size, which is 8"),
        ("preferred_batch_size: [ -4 ]", "preferred_batch_size has -4"),
        ("preferred_batch_size: [ 9 ]", "preferred_batch_size has 9"),
        ("priority_levels: 2", "default_priority_level is 0; with priority_levels 2 it must be from 1 to 2"),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level is 3"),
        ("priority_queue_policy { key: 0 value {} }", "priority_queue_policy has level 0; there are levels from 1 on"),
        (
            "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} }",
            "priority_queue_policy has level 3; there are levels from 1 to 2",
        ),
    ],
)
def test_contradictory_values_are_refused(directory: Path, text: str, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=re.escape(words)):
        read(directory, f"max_batch_size: 8 dynamic_batching {{ {text} }}")


# JSON, and versions


def test_json_means_the_same_as_text(directory: Path) -> None:
    json = '{"maxBatchSize": 8, "dynamic_batching": {}, "parameters": {"turnout.devices": {"string_value": "cpu"}}}'
    text = "max_batch_size: 8 dynamic_batching {}" + parameter("turnout.devices", "cpu")
    assert config_pbtxt.parse_json(json, "m", directory) == read(directory, text)


@pytest.mark.parametrize(
    "json", ["", "[]", "5", "null", "{", '{"max_batch_size": "many"}', '{"colour": 1}', '{"input": ' + "[" * 5000]
)
def test_invalid_json_is_an_invalid_request(tmp_path: Path, json: str) -> None:
    with pytest.raises(InvalidRequest, match="'config' parameter is not a model configuration in JSON"):
        config_pbtxt.parse_json(json, "m", tmp_path)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("version_policy { latest { num_versions: 2 } }", [2, 3]),
        ("version_policy { all {} }", [1, 2, 3]),
        ("version_policy { specific { versions: [ 3, 1, 9 ] } }", [1, 3]),
        ("version_policy { specific {} }", []),
    ],
)
def test_the_version_policy_selects_from_the_existing_versions(directory: Path, policy: str, served: list[int]) -> None:
    assert read(directory, policy).select([2, 1, 3]) == served


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "100000" } }',
            "'intra_op_thread_count' is 100000;",
        ),
        (
            'parameters { key: "inter_op_thread_count" value { string_value: "5000" } }',
            "'inter_op_thread_count' is 5000;",
        ),
        ("instance_group { kind: KIND_CPU count: 2000000 }", "instance_group has a count of 2000000; up to"),
        ('model_warmup { name: "w" batch_size: 1 count: 4000000 }', "model_warmup has a count of 4000000; up to"),
    ],
)
def test_what_would_keep_the_server_from_anything_else_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(FailedPrecondition, match=says):
        read(tmp_path, text)
