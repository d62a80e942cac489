"""Loads weights from a file into a model; both must have the same keys and shapes."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from turnout_exporter.errors import SourceError

_SHOWN_KEYS = 5


def load_into(model: nn.Module, path: Path) -> None:
    """Loads a state dict from a .safetensors file or a file that `torch.save` wrote.

    Raises:
        SourceError: the file contains something else, or its keys or shapes aren't the model's.
    """
    weights = _read(path)
    problems = _misfits(model.state_dict(), weights)
    if problems:
        raise SourceError(f"{path} doesn't fit the model: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=True)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} can't be read as plain weights, and a pickle may run any code when it is loaded, so it is refused. "
            f"Save the weights alone: torch.save(model.state_dict(), file), or safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise SourceError(f"{path} can't be read: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise SourceError(f"{path} holds {_contents(weights)}, not a state dict; save model.state_dict() alone")
    return weights


def _contents(loaded: object) -> str:
    return f"a dict with {_some(list(loaded))}" if isinstance(loaded, dict) else f"a {type(loaded).__name__}"


def _misfits(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    reshaped = [
        f"{key} is {list(found[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted.keys() & found.keys()
        if found[key].shape != wanted[key].shape
    ]
    problems = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": sorted(reshaped),
    }
    return [f"{what}: {_some(keys)}" for what, keys in problems.items() if keys]


def _some(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN_KEYS
    return ", ".join(map(str, keys[:_SHOWN_KEYS])) + (f" and {rest} more" if rest > 0 else "")
