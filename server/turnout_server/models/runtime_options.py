"""The options of ONNX Runtime in a model configuration.

The keys are those of Triton's ONNX Runtime backend (triton-inference-server/onnxruntime_backend, README.md, "Model Config
Options"), so a repository that was tuned for Triton is tuned here as well.
"""

from turnout_proto.model_config_pb2 import ModelConfig, ModelOptimizationPolicy

from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.model_config import RuntimeOptions

_SEARCH = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
_LEVELS = {0: "all", -1: "basic", 1: "extended", 2: "off"}
_STRATEGY = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}


#: Threads of a pool that a configuration may ask for.
MAX_THREADS = 1024
#: The parameters that are acted on.
PARAMETERS = (
    "intra_op_thread_count",
    "inter_op_thread_count",
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
    "cudnn_conv_algo_search",
    "gpu_mem_limit",
    "arena_extend_strategy",
    "do_copy_in_default_stream",
)


def runtime_options(message: ModelConfig) -> RuntimeOptions:
    """The options that a configuration asks for.

    Raises:
        FailedPrecondition: a value is invalid, or an execution accelerator isn't supported.
    """
    values = {key: value.string_value.strip() for key, value in message.parameters.items()}
    return RuntimeOptions(
        intra_op_threads=_number(values, "intra_op_thread_count"),
        inter_op_threads=_number(values, "inter_op_thread_count"),
        parallel=_flag(values, "execution_mode", default=False),
        memory_arena=_flag(values, "enable_mem_arena", default=True),
        memory_pattern=_flag(values, "enable_mem_pattern", default=True),
        optimization_level=_level(message.optimization.graph.level),
        cuda={**_cuda(values), **_cuda_accelerator(message.optimization)},
    )


def _cuda_accelerator(optimization: ModelOptimizationPolicy) -> dict[str, str]:
    """The parameters of a `cuda` accelerator, which are options of ONNX Runtime's provider; any other one is refused."""
    accelerators = optimization.execution_accelerators
    options: dict[str, str] = {}
    for accelerator in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        if accelerator.name != "cuda":
            raise FailedPrecondition(
                f"execution accelerator '{accelerator.name}' is not available here; remove it from config.pbtxt"
            )
        options.update(accelerator.parameters)
    return options


def _level(level: int) -> str:
    if level not in _LEVELS:
        raise FailedPrecondition(f"optimization.graph.level is {level}; known are {list(_LEVELS)}")
    return _LEVELS[level]


def _number(values: dict[str, str], key: str) -> int | None:
    if key not in values:
        return None
    if not values[key].isdecimal():
        raise FailedPrecondition(f"parameter '{key}' is '{values[key]}'; it must be a whole number")
    if (number := int(values[key])) > MAX_THREADS:
        raise FailedPrecondition(f"parameter '{key}' is {number}; up to {MAX_THREADS} are allowed")
    return number or None


def _flag(values: dict[str, str], key: str, *, default: bool) -> bool:
    value = values.get(key, str(int(default)))
    if value not in ("0", "1"):
        raise FailedPrecondition(f"parameter '{key}' is '{value}'; it must be 0 or 1")
    return value == "1"


def _cuda(values: dict[str, str]) -> dict[str, str]:
    numbered = {"cudnn_conv_algo_search": _SEARCH, "arena_extend_strategy": _STRATEGY}
    keys = (*numbered, "gpu_mem_limit", "do_copy_in_default_stream")
    return {key: numbered.get(key, {}).get(values[key], values[key]) for key in keys if key in values}
