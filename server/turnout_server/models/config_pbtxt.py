"""Reads a model configuration, from `config.pbtxt` or JSON.

Every field of ModelConfig is acted on, logged as having no effect here, or refused; a field that would change answers is never
ignored. docs/protocol.md has the table.
"""

import difflib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.message import Message
from turnout_proto import model_config_pb2
from turnout_proto.model_config_pb2 import ModelConfig

from turnout_server.core.device_names import KINDS, entries_of, kind_of
from turnout_server.core.errors import FailedPrecondition, InvalidRequest
from turnout_server.core.model_config import ModelConfiguration, Queue, QueuePolicy, TensorConfig, Warmup, WarmupInput
from turnout_server.models.file_kinds import mishap_of
from turnout_server.models.files import MODEL_FILE
from turnout_server.models.regular_files import regular
from turnout_server.models.runtime_options import PARAMETERS, runtime_options
from turnout_server.scheduling.routing import OBJECTIVES

#: Sections that ask for something that Turnout doesn't support, and the error text of each.
REFUSED = {
    "sequence_batching": "sequence batching: requests that depend on earlier ones are not supported",
    "ensemble_scheduling": "an ensemble: models that feed each other are not supported; export them as one ONNX graph",
    "batch_input": "batch inputs: not supported; compute them in the ONNX graph",
    "batch_output": "batch outputs: not supported; compute them in the ONNX graph",
    "cc_model_filenames": "a file by compute capability: not supported; set turnout.file.<device> in parameters",
    "model_operations": "libraries of custom operators: never loaded, because they are third-party code",
    "model_repository_agents": "repository agents: not supported",
    "runtime": "another runtime: only ONNX Runtime is served",
}
#: Fields that have no effect here and don't change answers, by section.
WITHOUT_EFFECT = {
    "": ("metric_tags", "response_cache", "model_metrics"),
    "input": ("format",),
    "instance_group": ("profile", "host_policy"),
    "instance_group.rate_limiter": ("resources",),
    "optimization": (
        "priority",
        "cuda",
        "input_pinned_memory",
        "output_pinned_memory",
        "gather_kernel_buffer_threshold",
        "eager_batching",
    ),
}

#: Stands for every device, in place of a device name.
ANYWHERE = ""

#: What a configuration may ask for: more would keep the server from anything else while the model is loaded.
MAX_INSTANCES, MAX_WARMUPS = 1024, 10_000
#: Turnout's own parameters, without their prefix.
TURNOUT_PARAMETERS = (
    "default_device", "devices", "variants", "batching", "objective", "latency_target_us", "tolerance", "unverified",
)  # fmt: skip


def read(directory: Path, name: str, kinds: Collection[str] = ()) -> ModelConfiguration:
    """Reads the `config.pbtxt` of a model's directory; a missing file counts as an empty one.

    Args:
        kinds: the kinds of this server's devices; declared devices may be of kinds that Turnout doesn't know by itself.

    Raises:
        FailedPrecondition: it isn't a model configuration, or it asks for something unsupported; the text says what.
    """
    path = directory / "config.pbtxt"
    try:
        message = text_format.Parse(regular(path).read_text(encoding="utf-8-sig"), ModelConfig())
    except FileNotFoundError:
        return ModelConfiguration(name)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        mishap = mishap_of(path) or ("is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "")
        raise FailedPrecondition(f"config.pbtxt is not a model configuration: {f'it {mishap}' if mishap else error}") from None
    except PermissionError:
        raise FailedPrecondition(f"config.pbtxt {mishap_of(path)}") from None
    return interpret(message, name, directory, kinds)


def parse_json(text: str, name: str, directory: Path, kinds: Collection[str] = ()) -> ModelConfiguration:
    """The configuration in a load request's JSON; the arguments are those of `read`.

    Raises:
        InvalidRequest: it isn't a model configuration.
        FailedPrecondition: it asks for something unsupported.
    """
    try:
        if not text.lstrip().startswith("{"):
            raise json_format.ParseError("it must be an object")
        message = json_format.Parse(text, ModelConfig(), max_recursion_depth=20)
    except json_format.ParseError as error:
        raise InvalidRequest(f"the 'config' parameter is not a model configuration in JSON: {error}") from None
    return interpret(message, name, directory, kinds)


def interpret(message: ModelConfig, name: str, directory: Path, kinds: Collection[str] = ()) -> ModelConfiguration:
    """What a configuration means for this server; label files and warm-up data are read from `directory`.

    Raises:
        FailedPrecondition: a section isn't supported or has a wrong value.
    """
    _refuse(message, name)
    parameters = _turnout_parameters(message)
    return ModelConfiguration(
        name=name,
        max_batch_size=message.max_batch_size,
        inputs=tuple(_tensor(spec) for spec in message.input),
        outputs=tuple(_tensor(spec, directory) for spec in message.output),
        default_device=_checked_devices(parameters, "default_device", kinds),
        devices=_devices(message, parameters, kinds),
        files=_files(message, kinds),
        variants=_variants(message, kinds),
        versions=_versions(message.version_policy),
        queue=_queue(message.dynamic_batching, message.max_batch_size),
        batches=_either(parameters, "batching", "on", "off"),
        serves_unverified=not _either(parameters, "unverified", "refuse", "serve"),
        objective=_objective(parameters, "objective"),
        latency_target_us=_microseconds(parameters, "latency_target_us"),
        instances=_instances(message),
        weight=1 / min(_rate_priorities(message), default=1),
        tolerance=_non_negative(parameters, "tolerance"),
        runtime=runtime_options(message),
        warmups=tuple(_warmup(warmup, directory) for warmup in message.model_warmup),
        notes=tuple(_notes(message)),
    )


def _refuse(message: ModelConfig, name: str) -> None:
    if message.name and message.name != name:
        raise FailedPrecondition(f"config.pbtxt names model '{message.name}', but its directory is '{name}'")
    if message.platform not in ("", "onnxruntime_onnx") or message.backend not in ("", "onnxruntime"):
        asked = message.platform if message.platform not in ("", "onnxruntime_onnx") else message.backend
        raise FailedPrecondition(f"platform or backend '{asked}' is not served here: only 'onnxruntime_onnx' is")
    if message.max_batch_size < 0:
        raise FailedPrecondition(f"max_batch_size is {message.max_batch_size}; it must not be negative")
    for section in _fields_set(message):
        if section in REFUSED:
            raise FailedPrecondition(f"config.pbtxt has '{section}', {REFUSED[section]}")
    if message.model_transaction_policy.decoupled:
        raise FailedPrecondition("config.pbtxt asks for a decoupled model, which is not supported: one request, one answer")
    for group in message.instance_group:
        if group.secondary_devices or group.passive:
            raise FailedPrecondition(
                "config.pbtxt has an instance group with secondary devices or passive instances, unsupported"
            )
    _refuse_in_tensors(message)


def _refuse_in_tensors(message: ModelConfig) -> None:
    specs: list[Any] = [*message.input, *message.output]
    for spec in specs:
        if spec.is_shape_tensor or spec.is_non_linear_format_io:
            raise FailedPrecondition(f"'{spec.name}' is declared a shape tensor or non-linear, which only TensorRT knows")
    for declared in message.input:
        if declared.allow_ragged_batch:
            raise FailedPrecondition(f"input '{declared.name}' is declared 'allow_ragged_batch', which is not supported")
        if declared.optional and message.max_batch_size:
            raise FailedPrecondition(
                f"input '{declared.name}' is declared 'optional', which needs max_batch_size: 0 (it is "
                f"{message.max_batch_size}): its value in the ONNX graph has no batch dimension"
            )


def _fields_set(message: Message) -> list[str]:
    return [descriptor.name for descriptor, _ in message.ListFields()]


def _notes(message: ModelConfig) -> list[str]:
    """The fields that are set but have no effect here, without repetition."""
    notes = [
        f"{section}.{name}".removeprefix(".")
        for section, names in WITHOUT_EFFECT.items()
        for part in _messages_at(message, section)
        for name in _fields_set(part)
        if name in names
    ]
    if any(group.gpus and group.kind != model_config_pb2.ModelInstanceGroup.KIND_GPU for group in message.instance_group):
        notes.append("instance_group.gpus of a group that isn't KIND_GPU")
    if len(set(_rate_priorities(message))) > 1:
        notes.append("instance_group.rate_limiter.priority other than the most urgent")
    notes += [f"parameters['{key}']" for key in message.parameters if not _has_effect(key)]
    return list(dict.fromkeys(notes))


def _messages_at(message: Any, section: str) -> list[Message]:
    """The messages at a dotted path; none if the path isn't set."""
    messages: list[Any] = [message]
    for field in filter(None, section.split(".")):
        repeated = isinstance(getattr(ModelConfig(), field, None), Sequence)
        messages = [each for parent in messages for each in (getattr(parent, field) if repeated else [getattr(parent, field)])]
    return messages


def _has_effect(key: str) -> bool:
    """Whether a parameter has an effect; unknown ones with the prefix `turnout.` are refused before."""
    return key.startswith("turnout.") or key in PARAMETERS


def _turnout_parameters(message: ModelConfig) -> dict[str, str]:
    """Turnout's own parameters, without their prefix.

    Raises:
        FailedPrecondition: one doesn't exist; a typing error would otherwise go unnoticed.
    """
    parameters = {
        key.removeprefix("turnout."): value.string_value
        for key, value in message.parameters.items()
        if key.startswith("turnout.") and not key.startswith(("turnout.file.", "turnout.report.", "turnout.variants."))
    }
    for key in parameters:
        if key not in TURNOUT_PARAMETERS:
            near = difflib.get_close_matches(key, TURNOUT_PARAMETERS, n=1) or TURNOUT_PARAMETERS
            raise FailedPrecondition(
                f"unknown parameter 'turnout.{key}'; did you mean {' or '.join(f'turnout.{n}' for n in near)}?"
            )
    return parameters


def _non_negative(parameters: dict[str, str], key: str) -> float:
    try:
        value = float(parameters.get(key, ModelConfiguration.tolerance))
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise FailedPrecondition(f"parameter 'turnout.{key}' is '{parameters[key]}'; it must be a number such as 0.01")
    return value


def _either(parameters: dict[str, str], key: str, usual: str, other: str) -> bool:
    """Whether a parameter has its usual value."""
    value = parameters.get(key, usual)
    if value not in (usual, other):
        raise FailedPrecondition(f"parameter 'turnout.{key}' is '{value}'; it must be '{usual}' or '{other}'")
    return value == usual


def _objective(parameters: dict[str, str], key: str) -> str:
    value = parameters.get(key, "")
    if key in parameters and value not in OBJECTIVES:
        raise FailedPrecondition(f"parameter 'turnout.{key}' is '{value}'; it must be one of {', '.join(OBJECTIVES)}")
    return value


def _microseconds(parameters: dict[str, str], key: str) -> int | None:
    if key not in parameters:
        return None
    try:
        value = int(parameters[key])
    except ValueError:
        value = 0
    if value <= 0:
        raise FailedPrecondition(f"parameter 'turnout.{key}' is '{parameters[key]}'; it must be a whole number such as 20000")
    return value


def _checked_devices(parameters: dict[str, str], key: str, kinds: Collection[str]) -> str:
    value = parameters.get(key, "")
    try:
        if value:
            entries_of(value, kinds)
    except ValueError as error:
        raise FailedPrecondition(f"parameter 'turnout.{key}': {error}") from None
    return value


def _devices(message: ModelConfig, parameters: dict[str, str], kinds: Collection[str]) -> tuple[str, ...]:
    """`turnout.devices` where given, else what the instance groups say."""
    if listed := _checked_devices(parameters, "devices", kinds):
        return tuple(entries_of(listed, kinds))
    devices = [device for group in message.instance_group for device in _devices_of(group)]
    return () if ANYWHERE in devices else tuple(devices)


def _devices_of(group: model_config_pb2.ModelInstanceGroup) -> list[str]:
    """The devices of an instance group; each of them gets the group's count of instances."""
    if group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU:
        return ["cpu"]
    if group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU:
        return [f"cuda:{gpu}" for gpu in group.gpus] or ["cuda"]
    return [ANYWHERE]


def _instances(message: ModelConfig) -> dict[str, int]:
    """How many runs may go on at once, by device, where instance groups give a count; counts for one device add up."""
    instances: dict[str, int] = {}
    for group in message.instance_group:
        if group.count < 0:
            raise FailedPrecondition(f"instance_group has a count of {group.count}; it must not be negative")
        for device in _devices_of(group) if group.count else ():
            instances[device] = instances.get(device, 0) + group.count
        if group.count > MAX_INSTANCES:
            raise FailedPrecondition(f"instance_group has a count of {group.count}; up to {MAX_INSTANCES} are allowed")
    return instances


def _rate_priorities(message: ModelConfig) -> list[int]:
    """The rate limiter's priority of each instance group, 1 by default; priority 2 gets half as many turns as 1."""
    return [group.rate_limiter.priority or 1 for group in message.instance_group]


def _files(message: ModelConfig, kinds: Collection[str]) -> dict[str, str]:
    files = _by_device(message, "turnout.file", kinds)
    files[""] = message.default_model_filename or MODEL_FILE
    for file in files.values():
        _plain_name(file)
    return files


def _variants(message: ModelConfig, kinds: Collection[str]) -> dict[str, tuple[str, ...]]:
    """`turnout.variants` for every device, `turnout.variants.cpu` for that one: file names with commas between."""
    listed = _by_device(message, "turnout.variants", kinds)
    if "turnout.variants" in message.parameters:
        listed[ANYWHERE] = message.parameters["turnout.variants"].string_value
    files = {device: tuple(file.strip() for file in text.split(",") if file.strip()) for device, text in listed.items()}
    for file in (each for several in files.values() for each in several):
        _plain_name(file)
    return files


def _by_device(message: ModelConfig, parameter: str, kinds: Collection[str]) -> dict[str, str]:
    """The values of a parameter that is set by device, as in `turnout.file.cpu`."""
    prefix = f"{parameter}."
    values = {key.removeprefix(prefix): v.string_value for key, v in message.parameters.items() if key.startswith(prefix)}
    for device in values:
        if kind_of(device) not in (*KINDS, *kinds):
            raise FailedPrecondition(f"parameter '{prefix}{device}': unknown device; kinds are {sorted({*KINDS, *kinds})}")
    return values


def _plain_name(file: str) -> str:
    if Path(file).name != file or file in ("", "..") or "\0" in file:
        raise FailedPrecondition(f"file name '{file}' must be a plain name, without directories")
    return file


def _versions(policy: model_config_pb2.ModelVersionPolicy) -> int | tuple[int, ...] | None:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return None
    if choice == "specific":
        return tuple(policy.specific.versions)
    return policy.latest.num_versions or 1


def _tensor(spec: model_config_pb2.ModelInput | model_config_pb2.ModelOutput, directory: Path | None = None) -> TensorConfig:
    file = getattr(spec, "label_filename", "")
    return TensorConfig(
        name=spec.name,
        datatype=model_config_pb2.DataType.Name(spec.data_type),
        dims=tuple(spec.dims),
        reshape=tuple(spec.reshape.shape) if spec.HasField("reshape") else None,
        labels=_labels(directory / _plain_name(file)) if directory and file else (),
        optional=getattr(spec, "optional", False),
    )


def _labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(regular(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"label file '{path.name}' cannot be read: {type(error).__name__}") from None


def _queue(batching: model_config_pb2.ModelDynamicBatching, max_batch_size: int) -> Queue:
    for size in batching.preferred_batch_size:
        if not 0 < size <= max_batch_size:
            raise FailedPrecondition(
                f"preferred_batch_size has {size}; each must be from 1 to max_batch_size, which is {max_batch_size}"
            )
    _check_levels(batching)
    return Queue(
        preferred_rows=tuple(sorted(batching.preferred_batch_size)),
        max_delay_us=batching.max_queue_delay_microseconds,
        levels=batching.priority_levels,
        default_level=batching.default_priority_level,
        policy=_queue_policy(batching.default_queue_policy),
        policies={level: _queue_policy(policy) for level, policy in batching.priority_queue_policy.items()},
    )


def _check_levels(batching: model_config_pb2.ModelDynamicBatching) -> None:
    """Raises FailedPrecondition if the configuration mentions a priority level that doesn't exist."""
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        raise FailedPrecondition(
            f"default_priority_level is {default}; with priority_levels {levels} it must be from 1 to {levels}"
        )
    for level in sorted(batching.priority_queue_policy):
        if not 1 <= level <= (levels or level):
            raise FailedPrecondition(
                f"priority_queue_policy has level {level}; there are levels from 1 {f'to {levels}' if levels else 'on'}"
            )


def _queue_policy(policy: model_config_pb2.ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_size=policy.max_queue_size,
        timeout_us=policy.default_timeout_microseconds,
        timeout_override=policy.allow_timeout_override or not policy.default_timeout_microseconds,
        rejects=policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT,
    )


def _warmup(warmup: model_config_pb2.ModelWarmup, directory: Path) -> Warmup:
    inputs = {name: _warmup_input(name, spec, directory) for name, spec in warmup.inputs.items()}
    if warmup.count > MAX_WARMUPS:
        raise FailedPrecondition(f"model_warmup has a count of {warmup.count}; up to {MAX_WARMUPS} are allowed")
    return Warmup(warmup.batch_size, max(1, warmup.count), inputs)


def _warmup_input(name: str, spec: model_config_pb2.ModelWarmup.Input, directory: Path) -> WarmupInput:
    kind = spec.WhichOneof("input_data_type")
    datatype = model_config_pb2.DataType.Name(spec.data_type)
    dims = tuple(spec.dims)
    if kind is None or datatype == "TYPE_INVALID":
        raise FailedPrecondition(f"model_warmup input '{name}' needs a data_type and zero_data, random_data or input_data_file")
    if min(dims, default=0) < 0:
        raise FailedPrecondition(f"model_warmup input '{name}' has dims {list(dims)}; none of them may be free")
    if kind == "input_data_file":
        return WarmupInput(dims, datatype, directory / "warmup" / _plain_name(spec.input_data_file))
    return WarmupInput(dims, datatype, kind.removesuffix("_data"))
