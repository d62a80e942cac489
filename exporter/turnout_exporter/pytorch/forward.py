"""A model in the one form that every exporter takes: tensors by position in, a tuple of tensors out."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from turnout_exporter.errors import ConversionError, SourceError
from turnout_exporter.pytorch.outputs import choose, rename
from turnout_exporter.spec.inputspec import InputSpec
from turnout_exporter.spec.reference import Arrays


class Forward(nn.Module):
    """Calls a model, and returns what of its answer is published.

    Attributes:
        names: the names of the inputs, in the order of the tensors.
        positional: how many of them the model gets by position; the others by keyword.
        selected: the names of the outputs in the model's answer; None for all.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], positional: int, selected: Sequence[str] | None) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)
        self.positional = positional
        self.selected = list(selected) if selected is not None else None

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs(*tensors).values())

    def outputs(self, *tensors: Tensor) -> dict[str, Tensor]:
        """The published outputs by the names that they have in the model's answer."""
        keywords = dict(zip(self.names[self.positional :], tensors[self.positional :], strict=True))
        return choose(self.model(*tensors[: self.positional], **keywords), self.selected)

    def run(self, arrays: Arrays, output_names: Sequence[str] | None = None) -> Arrays:
        """Runs the model on copies of arrays, because it may write into its inputs.

        Args:
            output_names: the published names of the outputs, in order; None to keep those of the answer.
        """
        with torch.inference_mode():
            found = self.outputs(*(torch.from_numpy(arrays[name].copy()) for name in self.names))
        published = rename(list(found), output_names)
        return {name: _array(name, tensor) for name, tensor in zip(published, found.values(), strict=True)}


def positional_inputs(model: nn.Module, inputs: Sequence[InputSpec]) -> int:
    """How many inputs are passed by position: none if `forward` has parameters of their names, else all.

    Raises:
        SourceError: one is text; only some of the names are parameters, so the others are probably misspelt; or one that is
            required isn't given.
    """
    if texts := [spec.name for spec in inputs if spec.datatype.dtype.kind == "U"]:
        raise SourceError(
            f"input {texts[0]!r} is string, and PyTorch has no tensors of text: let forward take numbers (tokens)"
        )
    parameters = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    unknown = [spec.name for spec in inputs if spec.name not in parameters]
    if unknown and not takes_any and len(unknown) < len(inputs):
        raise SourceError(f"forward has no parameter {', '.join(unknown)}; it has {', '.join(parameters)}")
    by_position = len(unknown) == len(inputs) and not takes_any
    given = list(parameters)[: len(inputs)] if by_position else [spec.name for spec in inputs]
    missing = [name for name, parameter in parameters.items() if _is_required(parameter) and name not in given]
    if missing:
        raise SourceError(f"forward also needs {', '.join(missing)}: give --input for it, too")
    return len(inputs) if by_position else 0


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _array(name: str, tensor: Tensor) -> np.ndarray:
    """An output as a numpy array."""
    if tensor.dtype == torch.bfloat16:
        raise ConversionError(f"output {name!r} is bfloat16, which can't be served; let forward return .float()")
    if tensor.is_sparse or tensor.is_quantized:
        raise ConversionError(f"output {name!r} is a sparse or quantized tensor; let forward return a plain one")
    array: np.ndarray = tensor.detach().cpu().resolve_conj().contiguous().numpy()
    return array
