"""Names for a model's outputs, from the structure that `forward` returns; ONNX doesn't keep that structure."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree  # torch.export flattens with it, so the order is the same

from turnout_exporter.errors import ConversionError, SpecError


def named_outputs(answer: object, names: list[str] | None) -> dict[str, Tensor]:
    """The tensors that `forward` returned, in order, by name.

    The names are the keys of a dict, nested ones joined by `_`; `output_0`, `output_1`, ... for the items of a tuple; `output`
    for a single tensor. `names` replaces all of these.

    Raises:
        ConversionError: a returned value isn't a tensor, or two names are the same.
        SpecError: the number of `names` isn't that of the outputs.
    """
    leaves, _ = pytree.tree_flatten_with_path(answer)
    derived = [_name(path) for path, _ in leaves]
    for name, (_, leaf) in zip(derived, leaves, strict=True):
        if not isinstance(leaf, Tensor):
            raise ConversionError(f"output {name!r} is {type(leaf).__name__}, not a tensor: let forward return tensors only")
    chosen = derived if names is None else names
    if len(chosen) != len(leaves):
        raise SpecError(f"{len(chosen)} output names for {len(leaves)} outputs; in order they are {', '.join(derived)}")
    if len(set(chosen)) != len(chosen):
        raise ConversionError(f"two outputs have the same name: {', '.join(chosen)}; give other ones with --output-names")
    return {name: leaf for name, (_, leaf) in zip(chosen, leaves, strict=True)}


def _name(path: tuple[Any, ...]) -> str:
    """The name for the path to a tensor: `{"boxes": (xy, wh)}` gives boxes_0 and boxes_1."""
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))) for key in path]
    if not parts or parts[0].isdecimal():
        parts.insert(0, "output")
    return "_".join(parts)
