"""ONNX Runtime's options under the names of Triton's backend."""

import pytest
from google.protobuf import text_format
from turnout_proto.model_config_pb2 import ModelConfig
from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.models.runtime_options import PARAMETERS, runtime_options


def options(text: str = "", **parameters: str) -> RuntimeOptions:
    message = text_format.Parse(text, ModelConfig())
    for key, value in parameters.items():
        message.parameters[key].string_value = value
    return runtime_options(message)


def test_without_parameters_all_options_have_their_defaults() -> None:
    assert options() == RuntimeOptions()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("intra_op_thread_count", "3", RuntimeOptions(intra_op_threads=3)),
        ("intra_op_thread_count", "0", RuntimeOptions()),
        ("inter_op_thread_count", "2", RuntimeOptions(inter_op_threads=2)),
        ("execution_mode", "1", RuntimeOptions(parallel=True)),
        ("enable_mem_arena", "0", RuntimeOptions(memory_arena=False)),
        ("enable_mem_pattern", "0", RuntimeOptions(memory_pattern=False)),
        ("cudnn_conv_algo_search", "2", RuntimeOptions(cuda={"cudnn_conv_algo_search": "DEFAULT"})),
        ("gpu_mem_limit", "1024", RuntimeOptions(cuda={"gpu_mem_limit": "1024"})),
        ("arena_extend_strategy", "1", RuntimeOptions(cuda={"arena_extend_strategy": "kSameAsRequested"})),
        ("do_copy_in_default_stream", "1", RuntimeOptions(cuda={"do_copy_in_default_stream": "1"})),
    ],
)
def test_each_parameter_sets_its_option(key: str, value: str, expected: RuntimeOptions) -> None:
    assert key in PARAMETERS
    assert options(**{key: f" {value} "}) == expected


@pytest.mark.parametrize(("level", "name"), [(0, "all"), (-1, "basic"), (1, "extended"), (2, "off")])
def test_the_optimization_level_has_tritons_numbers(level: int, name: str) -> None:
    assert options(f"optimization {{ graph {{ level: {level} }} }}").optimization_level == name


@pytest.mark.parametrize(
    ("key", "value"),
    [("intra_op_thread_count", "-1"), ("inter_op_thread_count", "two"), ("execution_mode", "2"), ("enable_mem_arena", "yes")],
)
def test_an_invalid_value_is_refused_with_its_parameter(key: str, value: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"parameter '{key}' is '{value}'"):
        options(**{key: value})


def test_an_optimization_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match=r"optimization\.graph\.level is 9"):
        options("optimization { graph { level: 9 } }")


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_an_unavailable_accelerator_is_refused(kind: str) -> None:
    with pytest.raises(FailedPrecondition, match="'tensorrt' is not available here"):
        options(f'optimization {{ execution_accelerators {{ {kind}_execution_accelerator {{ name: "tensorrt" }} }} }}')


def test_a_cuda_accelerators_parameters_are_the_providers_options() -> None:
    text = 'name: "cuda" parameters { key: "use_tf32" value: "0" }'
    found = options(f"optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ {text} }} }} }}")
    assert found.cuda == {"use_tf32": "0"}
