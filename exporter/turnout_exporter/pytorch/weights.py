"""Loads weights from a file into a model as torch does; both must have the same keys and shapes.

A state dict says which version of each module wrote it. Modules go by that when they convert older layouts, which they do while
they are loaded. So the versions are kept, and what is missing is asked afterwards.
"""

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from turnout_exporter.errors import SourceError

_SHOWN_KEYS = 5
#: Where checkpoints keep the weights that are wanted most, the likeliest first.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params", "ema")
_MISMATCH = re.compile(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)")


@dataclass(frozen=True)
class WeightsFile:
    """A file with weights.

    Attributes:
        key: where in a checkpoint they are, with dots for a key in a dict in a dict; empty for the whole file.
        strip_prefix: what is removed from the start of every key; keys without it are left out.
    """

    path: Path
    key: str = ""
    strip_prefix: str = ""

    def load_into(self, model: nn.Module) -> list[str]:
        """Loads the weights into a model; returns what the user should know about them.

        Raises:
            SourceError: the file contains something else, or its keys or shapes aren't the model's.
        """
        weights = self._select(_read(self.path))
        notes = []
        if self.strip_prefix:
            notes += _left_out(weights, self.strip_prefix)
            weights = _stripped(weights, self.strip_prefix)
        wanted = model.state_dict()
        weights |= _tied(wanted, weights)
        problems = _load(model, weights)
        if problems:
            raise SourceError(f"{self.path} doesn't fit the model: {'; '.join(problems)}{self._advice(wanted, weights)}")
        return notes + _conversions(self.path, wanted, weights) + _broken(weights)

    def _select(self, content: object) -> "OrderedDict[str, Tensor]":
        """The state dict in what the file contains."""
        chosen = _at(content, self.key) if self.key else content
        if chosen is None:
            raise SourceError(f"{self.path} has no {self.key!r}; it holds {_contents(content)}")
        if not _is_state_dict(chosen):
            keys = _state_dicts(chosen)
            prefix = f"{self.key}." if self.key else ""
            advice = f": add --weights-key {prefix}{keys[0]}" if keys else "; save model.state_dict() alone"
            raise SourceError(f"{self.path} holds {_contents(chosen)}, not a state dict{advice}")
        assert isinstance(chosen, Mapping)
        if not chosen:
            raise SourceError(f"{self.path} holds no weights at all")
        return _with_versions(chosen, getattr(chosen, "_metadata", None))

    def _advice(self, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
        prefix = common_prefix(wanted, weights)
        if prefix:
            return f". Its keys differ by a prefix only: add --strip-prefix {self.strip_prefix}{prefix}"
        lacking = common_prefix(weights, wanted)
        if lacking:
            return f". The model's keys have the prefix {lacking!r}, which these lack: let the factory return the inner model"
        return ""


def common_prefix(wanted: Iterable[str], found: Iterable[str]) -> str:
    """The prefix without which `found` has every wanted key; empty if there is none."""
    keys, first = set(found), next(iter(wanted), "")
    for key in sorted(keys, key=len):
        prefix = key.removesuffix(first)
        if first and prefix and key.endswith(first) and all(prefix + other in keys for other in wanted):
            return prefix
    return ""


def _read(path: Path) -> object:
    if not path.stat().st_size:
        raise SourceError(f"{path} is empty")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other versions of pickle, and then says whether it can read it
            return torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(_refusal(path)) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise SourceError(f"{path} can't be read as weights: {' '.join(reason) or type(error).__name__}") from error


def _refusal(path: Path) -> str:
    """Why a file that must not be unpickled can't be loaded; torch's own text advises to unpickle it all the same."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it isn't a file of torch.save at all
        return f"{path} is no file of torch.save and no .safetensors file"
    named = f"It needs {_some(names)}. " if names else ""
    return (
        f"{path} holds more than weights, and unpickling that may run any code, so it is refused. {named}"
        f"Save the weights alone: torch.save(model.state_dict(), file), or safetensors"
    )


def _at(content: object, key: str) -> object:
    """What a checkpoint has under a key; the key itself may have dots."""
    if not isinstance(content, Mapping):
        return None
    if key in content:
        return content[key]
    head, dot, rest = key.partition(".")
    return _at(content[head], rest) if dot and head in content else None


def _is_state_dict(content: object) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def _state_dicts(content: object) -> list[str]:
    """The keys of the state dicts in a checkpoint, the likeliest first."""
    if not isinstance(content, Mapping):
        return []
    found = [str(key) for key, value in content.items() if _is_state_dict(value) and value]
    usual = [key for key in _USUAL_KEYS if key in found]
    return usual + [key for key in found if key not in usual]


def _contents(loaded: object) -> str:
    return f"a dict with {_some([*map(str, loaded)])}" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"


def _tied(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The missing weights that share their memory with one that was found: safetensors keeps only one of them."""
    present = {wanted[key].data_ptr(): found[key] for key in wanted.keys() & found.keys() if wanted[key].numel()}
    return {key: present[value.data_ptr()] for key, value in wanted.items() if key not in found and value.data_ptr() in present}


def _load(model: nn.Module, weights: "OrderedDict[str, Tensor]") -> list[str]:
    """Loads weights; returns what doesn't fit, by the keys after the conversions that the modules make."""
    keys: dict[str, list[str]] = {}
    hook = model.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
        lambda _, found: keys.update(missing=[*found.missing_keys], unexpected=[*found.unexpected_keys])
    )
    reshaped: list[str] = []
    try:
        model.load_state_dict(weights, strict=False)
    except Exception as error:  # what isn't torch's own comes from the user's modules, which may raise anything
        reshaped = sorted(f"{key} is {have} instead of {want}" for key, have, want in _MISMATCH.findall(str(error)))
        if not reshaped:
            return [f"{type(error).__name__}: {str(error).strip()}"]
    finally:
        hook.remove()
    return [f"{what}: {_some(names)}" for what, names in (keys | {"of another shape": reshaped}).items() if names]


def _stripped(weights: "OrderedDict[str, Tensor]", prefix: str) -> "OrderedDict[str, Tensor]":
    """The weights with a prefix, without it; so are the paths of the modules in what says their versions."""
    versions: Mapping[str, Any] | None = getattr(weights, "_metadata", None)
    paths = {path: f"{path}." for path in versions or () if f"{path}.".startswith(prefix)}
    return _with_versions(
        {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)},
        versions and {paths[path].removeprefix(prefix).removesuffix("."): versions[path] for path in paths},
    )


def _with_versions(weights: Mapping[str, Tensor], versions: Mapping[str, Any] | None) -> "OrderedDict[str, Tensor]":
    """A copy of a state dict that says, as torch's own do, which version of each module wrote it; None if nothing says so."""
    copy = OrderedDict(weights)
    if versions is not None:
        copy._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    return copy


def _left_out(weights: Mapping[str, Tensor], prefix: str) -> list[str]:
    others = [key for key in weights if not key.startswith(prefix)]
    return [f"weights without the prefix {prefix!r} are left out: {_some(others)}"] if others else []


def _conversions(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    both = wanted.keys() & found.keys()
    pairs = {(found[key].dtype, wanted[key].dtype) for key in both if found[key].dtype != wanted[key].dtype}
    return sorted(
        f"{path.name} has {_name(have)} weights, and the model {_name(want)} ones: they were converted" for have, want in pairs
    )


def _broken(weights: Mapping[str, Tensor]) -> list[str]:
    broken = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    return [f"weights that are infinite or not a number: {_some(broken)}"] if broken else []


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _some(keys: list[Any]) -> str:
    rest = len(keys) - _SHOWN_KEYS
    return ", ".join(map(str, keys[:_SHOWN_KEYS])) + (f" and {rest} more" if rest > 0 else "")
