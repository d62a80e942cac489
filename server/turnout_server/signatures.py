"""What a model takes and gives, and whether a request fits it.

The texts are those that clients of Triton match on (core/src/infer_request.cc); docs/protocol.md lists them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from turnout_server.datatypes import Datatype, of_dtype
from turnout_server.errors import InvalidRequest
from turnout_server.messages import InferRequest


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        shape: with -1 for a free dimension, the batch dimension included.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape may be passed."""
        if len(shape) != len(self.shape):
            return False
        return all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs.

    Attributes:
        max_batch_size: the most rows that one request may have; 0 where axis 0 isn't a batch.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int

    @cached_property
    def input_by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    def rows_of(self, request: InferRequest) -> int:
        """The number of rows in a request, once everything about it has been checked; 1 where there is no batch.

        Raises:
            InvalidRequest: naming the tensor, what came and what was expected.
        """
        inputs = request.inputs
        if inputs.keys() != self.input_by_name.keys():
            raise _wrong_names(request, self)
        for name, array in inputs.items():
            self._check(self.input_by_name[name], array, request.model)
        for name in request.outputs:
            if name not in self.output_names:
                raise InvalidRequest(
                    f"unexpected inference output '{name}' for model '{request.model}'; it has {list(self.output_names)}"
                )
        return self._batch(inputs, request.model) if self.max_batch_size else 1

    def _check(self, spec: TensorSpec, array: np.ndarray, model: str) -> None:
        if array.dtype != spec.datatype.dtype:
            raise InvalidRequest(
                f"inference input '{spec.name}' data-type is '{of_dtype(array.dtype).name}', "
                f"but model '{model}' expects '{spec.datatype.name}'"
            )
        if not spec.fits(array.shape):
            if self.max_batch_size and not array.shape:
                raise InvalidRequest(f"input '{spec.name}' has no shape but model requires batch dimension for '{model}'")
            raise InvalidRequest(
                f"unexpected shape for input '{spec.name}' for model '{model}'. "
                f"Expected {_brackets(spec.shape)}, got {_brackets(array.shape)}. "
            )

    def _batch(self, inputs: dict[str, np.ndarray], model: str) -> int:
        sizes = {name: array.shape[0] for name, array in inputs.items()}
        rows: int = next(iter(sizes.values()))
        for name, size in sizes.items():
            if size != rows:
                raise InvalidRequest(
                    f"input '{name}' batch size does not match other inputs for '{model}': "
                    f"{', '.join(f'{n} has {s}' for n, s in sizes.items())}"
                )
        if rows > self.max_batch_size:
            raise InvalidRequest(f"inference request batch-size must be <= {self.max_batch_size} for '{model}', got {rows}")
        return rows


def _brackets(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _wrong_names(request: InferRequest, signature: Signature) -> InvalidRequest:
    got, want = list(request.inputs), list(signature.input_by_name)
    missing = [name for name in want if name not in request.inputs]
    if missing:
        return InvalidRequest(
            f"expected {len(want)} inputs but got {len(got)} inputs for model '{request.model}'. "
            f"Got input(s) {got}, but missing required input(s) {missing}. Please provide all required input(s)."
        )
    unexpected = next(name for name in got if name not in want)
    return InvalidRequest(f"unexpected inference input '{unexpected}' for model '{request.model}'; it takes {want}")
