"""The model's `config.pbtxt`: what the exporter writes into it, and what it doesn't touch.

The file is beside the versions and applies to all of them, and its owner may have edited it. So a later version that fits
leaves it as it is, and one that doesn't fit is refused.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from turnout_proto import model_config_pb2
from turnout_proto.model_config_pb2 import ModelConfig

from turnout_exporter.errors import PublishError
from turnout_exporter.spec.datatypes import BY_NAME
from turnout_exporter.spec.signature import Signature, TensorSpec

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
#: The parameter that lists the files which requests choose by their precision.
VARIANTS = "turnout.variants"


def describe(name: str, signature: Signature, max_batch_size: int, variants: Sequence[str] = ()) -> ModelConfig:
    """The configuration of a new model; with a `max_batch_size` above 0, `dims` leave out axis 0.

    Args:
        variants: the names of its files in other precisions.
    """
    config = ModelConfig(name=name, platform="onnxruntime_onnx", backend="onnxruntime", max_batch_size=max_batch_size)
    for spec in signature.inputs:
        config.input.add(**_tensor(spec, max_batch_size))
    for spec in signature.outputs:
        config.output.add(**_tensor(spec, max_batch_size), label_filename=LABELS_FILE if spec.labels else "")
    if variants:
        config.parameters[VARIANTS].string_value = ", ".join(variants)
    return config


def _tensor(spec: TensorSpec, max_batch_size: int) -> dict[str, Any]:
    dims = spec.numeric_shape[1:] if max_batch_size else spec.numeric_shape
    data_type = getattr(model_config_pb2, BY_NAME[spec.datatype].config_name)
    return {"name": spec.name, "data_type": data_type, "dims": dims}


def to_text(config: ModelConfig) -> str:
    """The configuration in protobuf's text format."""
    return text_format.MessageToString(config, use_short_repeated_primitives=True)


def read(path: Path) -> ModelConfig:
    """Reads a model's `config.pbtxt`.

    Raises:
        PublishError: it can't be read, or isn't a configuration.
    """
    try:
        return from_text(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, OSError) as error:
        raise PublishError(f"{path} can't be read ({error}); repair or remove it") from error


def from_text(text: str) -> ModelConfig:
    """Parses protobuf's text format.

    Raises:
        PublishError: it isn't a configuration; the text names the line.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise PublishError(f"the model's {CONFIG_FILE} can't be read ({error}); repair or remove it") from error


def conflicts(current: ModelConfig, new: ModelConfig) -> list[str]:
    """The differences by which a version that fits `new` wouldn't do what `current` promises."""
    found = [
        f"{side}s are {_signature(new, side)} instead of {_signature(current, side)}"
        for side in ("input", "output")
        # Without this section, each version's file decides.
        if getattr(current, side) and _signature(new, side) != _signature(current, side)
    ]
    if current.max_batch_size > new.max_batch_size:
        found.append(f"it was verified with up to {new.max_batch_size} rows, not {current.max_batch_size}")
    return found


def unlisted(config: ModelConfig, variants: Sequence[str]) -> list[str]:
    """The files of other precisions that a configuration doesn't mention, so that no server uses them."""
    mentioned = {
        name.strip()
        for key, value in config.parameters.items()
        if key.startswith((VARIANTS, "turnout.file."))
        for name in value.string_value.split(",")
    }
    return [name for name in variants if name not in mentioned]


def merge(current: ModelConfig, new: ModelConfig) -> ModelConfig:
    """`current` with the signature of `new`; keeps what the owner of `current` added."""
    merged = ModelConfig()
    merged.CopyFrom(current)
    for field in ("input", "output"):
        merged.ClearField(field)
    merged.MergeFrom(new)
    merged.max_batch_size = new.max_batch_size  # MergeFrom ignores a 0
    return merged


def _signature(config: ModelConfig, side: str) -> str:
    """All inputs or outputs as text, with their batch dimension, sorted."""
    batch = [-1] if config.max_batch_size else []
    type_name = model_config_pb2.DataType.Name
    tensors: list[Any] = list(getattr(config, side))
    return ", ".join(sorted(f"{t.name} {type_name(t.data_type).removeprefix('TYPE_')}{batch + list(t.dims)}" for t in tensors))
