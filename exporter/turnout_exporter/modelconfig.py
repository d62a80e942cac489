"""The model's `config.pbtxt`: what the exporter writes into it, and what it leaves alone.

The file lies beside the versions and speaks for all of them, and its owner may have added to it by hand. So a later version
keeps it as it is when it fits, and is refused when it doesn't.
"""

from typing import Any

from google.protobuf import text_format
from turnout_proto import model_config_pb2
from turnout_proto.model_config_pb2 import ModelConfig

from turnout_exporter.errors import PublishError
from turnout_exporter.signature import Signature, TensorSpec

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"


def describe(name: str, signature: Signature, max_batch_size: int) -> ModelConfig:
    """The configuration of a new model; where rows are batched, `dims` leave out axis 0."""
    config = ModelConfig(name=name, platform="onnxruntime_onnx", backend="onnxruntime", max_batch_size=max_batch_size)
    for spec in signature.inputs:
        config.input.add(**_tensor(spec, max_batch_size))
    for spec in signature.outputs:
        config.output.add(**_tensor(spec, max_batch_size), label_filename=LABELS_FILE if spec.labels else "")
    return config


def _tensor(spec: TensorSpec, max_batch_size: int) -> dict[str, Any]:
    dims = spec.numeric_shape[1:] if max_batch_size else spec.numeric_shape
    return {"name": spec.name, "data_type": getattr(model_config_pb2, f"TYPE_{spec.datatype}"), "dims": dims}


def to_text(config: ModelConfig) -> str:
    """The protobuf text form."""
    return text_format.MessageToString(config, use_short_repeated_primitives=True)


def from_text(text: str) -> ModelConfig:
    """Read the protobuf text form.

    Raises:
        PublishError: it isn't one; the text says on which line.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise PublishError(f"the model's {CONFIG_FILE} can't be read ({error}); repair or remove it") from error


def conflicts(current: ModelConfig, new: ModelConfig) -> list[str]:
    """Where a model that is as `new` says wouldn't do what `current` promises."""
    found = [
        f"{side}s are {_signature(new, side)} instead of {_signature(current, side)}"
        for side in ("input", "output")
        # A configuration without this section leaves it to each version's file.
        if getattr(current, side) and _signature(new, side) != _signature(current, side)
    ]
    if current.max_batch_size > new.max_batch_size:
        found.append(f"it was verified with up to {new.max_batch_size} rows, not {current.max_batch_size}")
    return found


def merge(current: ModelConfig, new: ModelConfig) -> ModelConfig:
    """`new`, with everything that only the owner of `current` can have written."""
    merged = ModelConfig()
    merged.CopyFrom(current)
    for field in ("input", "output"):
        merged.ClearField(field)
    merged.MergeFrom(new)
    merged.max_batch_size = new.max_batch_size  # merging leaves a 0 out
    return merged


def _signature(config: ModelConfig, side: str) -> str:
    """All inputs or outputs, with their batch dimension, in an order of its own."""
    batch = [-1] if config.max_batch_size else []
    type_name = model_config_pb2.DataType.Name
    tensors: list[Any] = list(getattr(config, side))
    return ", ".join(sorted(f"{t.name} {type_name(t.data_type).removeprefix('TYPE_')}{batch + list(t.dims)}" for t in tensors))
