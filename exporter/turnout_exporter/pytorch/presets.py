"""Inputs that needn't be written: what `forward`'s signature, the model's configuration and the task say about them.

The names of parameters and configuration attributes are those of transformers; timm's `default_cfg` is read, too. For other
models a task says what the parameters are, and the first embedding or convolution how wide.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from turnout_exporter.errors import SourceError
from turnout_exporter.spec.points import BATCH
from turnout_exporter.spec.tasks import IMAGE, TEXT

IMAGE_SIZE = 224
_MAIN = ("input_ids", "pixel_values", "input_values", "input_features")


def inputs_of(model: nn.Module, task: str) -> list[str]:
    """The `--input` texts of a model.

    Args:
        task: one of `TASKS`, or empty.

    Raises:
        SourceError: the task or the model's signature doesn't say what the inputs are.
    """
    config = getattr(model, "config", None)
    parameters = inspect.signature(model.forward).parameters
    if config is not None and any(name in parameters for name in _MAIN):
        return _configured(config, set(parameters))
    return _from_task(model, task, parameters)


def caps_of(model: nn.Module) -> dict[str, int]:
    """The largest sizes that a configuration states for the dimensions of these inputs."""
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return dict.fromkeys(("seq", "target"), positions) if isinstance(positions, int) and positions > 0 else {}


def labels_of(model: nn.Module) -> list[str]:
    """The names of the classes; none if a configuration only has the numbers that transformers makes up."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    labels = [str(names[number]) for number in sorted(names)] if all(isinstance(key, int) for key in names) else []
    return [] if labels == [f"LABEL_{number}" for number in range(len(labels))] else labels


def preprocessing_of(model: nn.Module) -> dict[str, Any]:
    """What timm says about how an image becomes an input."""
    configuration = _timm_configuration(model)
    return {key: configuration[key] for key in ("mean", "std", "interpolation", "crop_pct") if key in configuration}


def _configured(config: Any, parameters: set[str]) -> list[str]:
    """The inputs of a model with a configuration like those of transformers."""
    inputs = []
    if "input_ids" in parameters:
        inputs.append(f"input_ids=int64[batch,seq]@0:{_vocabulary(config)}")
        if "attention_mask" in parameters:
            inputs.append("attention_mask=mask[batch,seq]")
        types = getattr(config, "type_vocab_size", 0) or 0
        if "token_type_ids" in parameters and types > 1:
            inputs.append(f"token_type_ids=int64[batch,seq]@0:{types}")
    if "pixel_values" in parameters:
        height, width = _image_size(getattr(config, "image_size", None))
        inputs.append(f"pixel_values=float32[batch,{getattr(config, 'num_channels', 3)},{height},{width}]")
    if "input_values" in parameters:
        inputs.append("input_values=float32[batch,samples]")
    if "input_features" in parameters:
        frames = 2 * getattr(config, "max_source_positions", 1500)
        inputs.append(f"input_features=float32[batch,{getattr(config, 'num_mel_bins', 80)},{frames}]")
    if "decoder_input_ids" in parameters and getattr(config, "is_encoder_decoder", False):
        inputs.append(f"decoder_input_ids=int64[batch,target]@0:{_vocabulary(config)}")
    return inputs


def _from_task(model: nn.Module, task: str, parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """The inputs of any other model, by its task."""
    required = [name for name, parameter in parameters.items() if _is_required(parameter)]
    if task in IMAGE and len(required) == 1:
        channels, height, width = _timm_size(model) or (_channels(model), IMAGE_SIZE, IMAGE_SIZE)
        return [f"{required[0]}=float32[batch,{channels},{height},{width}]"]
    if task in TEXT and required:
        return [_text_input(model, name, is_first=name == required[0]) for name in required]
    known = f"the task {task!r} doesn't say what they are" if task else "nothing says what they are"
    raise SourceError(
        f"forward takes {', '.join(required) or 'nothing by a name of its own'}, and {known}: give --input for each"
        + ("" if task else ", or --task")
    )


def _text_input(model: nn.Module, name: str, *, is_first: bool) -> str:
    if is_first:
        embedding = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
        if embedding is None:
            raise SourceError(f"the model has no embedding that would say how many tokens there are: give --input for {name}")
        return f"{name}=int64[{BATCH},seq]@0:{embedding.num_embeddings}"
    if "pad" in name:
        return f"{name}=padding[{BATCH},seq]"
    if "mask" in name:
        return f"{name}=mask[{BATCH},seq]"
    if "len" in name:
        return f"{name}=lengths[{BATCH}]<=seq"
    raise SourceError(
        f"forward's parameter {name!r} is neither tokens, nor a mask, nor lengths: give --input for each parameter"
    )


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _vocabulary(config: Any) -> int:
    size = getattr(config, "vocab_size", None) or getattr(getattr(config, "text_config", None), "vocab_size", None)
    if not isinstance(size, int):
        raise SourceError("the configuration has no vocab_size: give --input for each of forward's parameters")
    return size


def _image_size(size: Any) -> tuple[int, int]:
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return size[0], size[1]
    return (size, size) if isinstance(size, int) else (IMAGE_SIZE, IMAGE_SIZE)


def _timm_size(model: nn.Module) -> tuple[int, int, int] | None:
    size = _timm_configuration(model).get("input_size")
    return (size[0], size[1], size[2]) if size and len(size) == 3 else None


def _timm_configuration(model: nn.Module) -> Mapping[str, Any]:
    found = getattr(model, "default_cfg", None)
    return found if isinstance(found, Mapping) else {}


def _channels(model: nn.Module) -> int:
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
