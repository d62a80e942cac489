"""A model's configuration: what `config.pbtxt` says of it, or what can be told without one."""

from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from turnout_proto import model_config_pb2

from turnout_server.devicenames import KINDS, entries_of, kind_of
from turnout_server.errors import FailedPrecondition

#: What a model whose file says nothing gets.
DEFAULT_MAX_BATCH_SIZE = 32


@dataclass(frozen=True)
class ModelConfiguration:
    """What the server needs to know of a model beyond its ONNX file.

    Attributes:
        max_batch_size: most rows in one run; 0 if axis 0 isn't a batch; None if nobody said.
        default_device: where a request runs that doesn't say; empty leaves it to the server.
        devices: where it may run, as names and kinds; empty means anywhere.
        files: the ONNX file by device name or kind; the key `""` holds the default.
        versions: version numbers to serve; an int n means the n highest, None all.
    """

    name: str
    max_batch_size: int | None = None
    default_device: str = ""
    devices: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=lambda: {"": "model.onnx"})
    versions: int | tuple[int, ...] | None = 1

    def file_for(self, device: str, kind: str) -> str:
        """The ONNX file that runs on a device."""
        return self.files.get(device) or self.files.get(kind) or self.files[""]

    def allows(self, device: str, kind: str) -> bool:
        """Whether the model may run there."""
        return not self.devices or device in self.devices or kind in self.devices

    def select(self, available: list[int]) -> list[int]:
        """The versions to serve out of those there are, ascending."""
        available = sorted(available)
        if self.versions is None:
            return available
        if isinstance(self.versions, int):
            return available[-self.versions :]
        return [version for version in available if version in self.versions]


def read(path: Path, name: str) -> ModelConfiguration:
    """Reads a `config.pbtxt`; a missing file is an empty one.

    Raises:
        FailedPrecondition: it isn't a model configuration, or asks for what Turnout doesn't do. The text says where and what.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ModelConfiguration(name)
    try:
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"{path.name} is not a model configuration: {error}") from None
    return _interpret(message, name)


def _interpret(message: model_config_pb2.ModelConfig, name: str) -> ModelConfiguration:
    if message.name and message.name != name:
        raise FailedPrecondition(f"config.pbtxt names model '{message.name}', but its directory is '{name}'")
    if message.platform not in ("", "onnxruntime_onnx") or message.backend not in ("", "onnxruntime"):
        asked = message.platform or message.backend
        raise FailedPrecondition(f"platform or backend '{asked}' is not served here: only 'onnxruntime_onnx' is")
    ours = {key: value.string_value for key, value in message.parameters.items()}
    return ModelConfiguration(
        name=name,
        max_batch_size=message.max_batch_size,
        default_device=_device_list(ours, "turnout.default_device"),
        devices=_devices(message, ours),
        files=_files(message, ours),
        versions=_versions(message.version_policy),
    )


def _device_list(ours: dict[str, str], key: str) -> str:
    value = ours.get(key, "")
    try:
        if value:
            entries_of(value)
    except ValueError as error:
        raise FailedPrecondition(f"parameter '{key}': {error}") from None
    return value


def _devices(message: model_config_pb2.ModelConfig, ours: dict[str, str]) -> tuple[str, ...]:
    """`turnout.devices` where given, else what the instance groups say."""
    if listed := _device_list(ours, "turnout.devices"):
        return tuple(entry.strip() for entry in listed.split(","))
    devices: list[str] = []
    for group in message.instance_group:
        kind = model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)
        if kind == "KIND_CPU":
            devices.append("cpu")
        elif kind == "KIND_GPU":
            devices += [f"cuda:{gpu}" for gpu in group.gpus] or ["cuda"]
        else:
            return ()
    return tuple(devices)


def _files(message: model_config_pb2.ModelConfig, ours: dict[str, str]) -> dict[str, str]:
    files = {"": message.default_model_filename or "model.onnx"}
    for key, file in ours.items():
        if key.startswith("turnout.file."):
            files[key.removeprefix("turnout.file.")] = file
    for file in files.values():
        if Path(file).name != file:
            raise FailedPrecondition(f"model file '{file}' must be a plain name inside the version directory")
    for device in files:
        if device and kind_of(device) not in KINDS:
            raise FailedPrecondition(f"parameter 'turnout.file.{device}': unknown device; kinds are {list(KINDS)}")
    return files


def _versions(policy: model_config_pb2.ModelVersionPolicy) -> int | tuple[int, ...] | None:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return None
    if choice == "specific":
        return tuple(policy.specific.versions)
    return policy.latest.num_versions or 1
