"""A model's outputs by name: what of `forward`'s answer is published, and under which names.

ONNX doesn't keep the structure that `forward` returns, so the names are made from it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from turnout_exporter.errors import ConversionError, SpecError


def flatten(answer: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The names and values of everything in an answer that isn't None, in order.

    The names are the keys of a dict and the fields of a dataclass or named tuple, nested ones joined by `_`; `output_0`,
    `output_1`, ... for the items of a tuple; `output` for a single tensor.
    """
    if answer is None:
        return
    parts = _parts(answer)
    if parts is None:
        names = path if path and not path[0].isdecimal() else ("output", *path)
        yield "_".join(names), answer
        return
    for key, value in parts:
        yield from flatten(value, (*path, key))


def choose(answer: object, selected: Sequence[str] | None) -> dict[str, Tensor]:
    """The tensors of an answer that are published, by name.

    Args:
        selected: the names of `--outputs`; None for all.

    Raises:
        SpecError: there is no output of a selected name.
        ConversionError: one isn't a tensor, or two have the same name.
    """
    found = list(flatten(answer))
    tensors = [name for name, value in found if isinstance(value, Tensor)]
    for name in selected or ():
        if name not in [name for name, _ in found]:
            raise SpecError(f"forward returns no output {name!r}; it returns {', '.join(tensors)}")
    chosen = [(name, value) for name, value in found if selected is None or name in selected]
    for name, value in chosen:
        if not isinstance(value, Tensor):
            choice = f"choose others with --outputs {','.join(tensors)}, or " if tensors else ""
            raise ConversionError(
                f"output {name!r} is {type(value).__name__}, not a tensor: {choice}let forward return tensors only"
            )
    names = [name for name, _ in chosen]
    if len(set(names)) != len(names):
        raise ConversionError(f"two outputs have the same name: {', '.join(names)}; let forward return other keys")
    if not names:
        raise ConversionError("forward returns no tensor, so there is nothing to publish")
    by_name = dict(chosen)
    return {name: by_name[name] for name in selected or names}


def rename(found: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """The published names of the outputs.

    Args:
        names: the names of `--output-names`; None to keep the found ones.

    Raises:
        SpecError: they aren't as many as the outputs, or two are the same.
    """
    chosen = list(names) if names is not None else list(found)
    if len(chosen) != len(found):
        raise SpecError(f"{len(chosen)} output names for {len(found)} outputs; in order they are {', '.join(found)}")
    if len(set(chosen)) != len(chosen):
        raise SpecError(f"two outputs have the same name: {', '.join(chosen)}; give other ones with --output-names")
    return chosen


def _parts(value: object) -> list[tuple[str, Any]] | None:
    """The keys and values in a container; None for anything else."""
    if isinstance(value, Mapping):  # also the outputs of transformers
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return [(str(index), item) for index, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None
