"""A model's inputs and outputs, and the validation of requests against them.

The error texts are those that clients of Triton match on (core/src/infer_request.cc); docs/protocol.md lists them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from turnout_server.core.datatypes import Datatype, of_dtype
from turnout_server.core.errors import FailedPrecondition, InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import TensorConfig


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        shape: as clients see it, with -1 for a free dimension, including the batch dimension.
        graph_shape: the shape in the ONNX graph, if the configuration asks for a reshape; None if it is the same.
        labels: the classes' names for classification, by index.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    graph_shape: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()

    @cached_property
    def _only_batch_is_free(self) -> bool:
        return self.shape[:1] == (-1,) and -1 not in self.shape[1:]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array may have this shape."""
        if self._only_batch_is_free:  # the fast path of most models
            return len(shape) > 0 and shape[1:] == self.shape[1:]
        return len(shape) == len(self.shape) and all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs.

    Attributes:
        max_batch_size: the most rows of one request; 0 if axis 0 isn't a batch.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int

    @cached_property
    def input_by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def output_by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.outputs}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def _reshapes_inputs(self) -> bool:
        return any(spec.graph_shape is not None for spec in self.inputs)

    @cached_property
    def _reshapes_outputs(self) -> bool:
        return any(spec.graph_shape is not None for spec in self.outputs)

    def to_graph(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A valid request's arrays in the shapes of the ONNX graph."""
        if not self._reshapes_inputs:
            return inputs
        return {spec.name: _reshaped(inputs[spec.name], spec.shape, spec.graph_shape) for spec in self.inputs}

    def to_client(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A run's outputs in the shapes that clients see."""
        if not self._reshapes_outputs:
            return outputs
        specs = [self.output_by_name[name] for name in outputs]
        return {
            s.name: outputs[s.name] if s.graph_shape is None else _reshaped(outputs[s.name], s.graph_shape, s.shape)
            for s in specs
        }

    def rows_of(self, request: InferRequest) -> int:
        """Validates a request and returns its number of rows; 1 if the model has no batch dimension.

        Raises:
            InvalidRequest: the request doesn't match; the text names the tensor, and what was sent and expected.
        """
        inputs = request.inputs
        if inputs.keys() != self.input_by_name.keys():
            raise _wrong_names(request, self)
        for name, array in inputs.items():
            self._check(self.input_by_name[name], array, request.model)
        for name in request.outputs:
            if name not in self.output_by_name:
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
                f"Expected {_bracketed(spec.shape)}, got {_bracketed(array.shape)}. "
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


def declared(
    graph: tuple[TensorSpec, ...], configs: tuple[TensorConfig, ...], max_batch_size: int, what: str
) -> tuple[TensorSpec, ...]:
    """The inputs (or outputs) of an ONNX graph as the configuration declares them; unchanged if it declares none.

    Args:
        what: `input` or `output`, for error messages.

    Raises:
        FailedPrecondition: the configuration contradicts the graph.
    """
    by_name = {spec.name: spec for spec in graph}
    for config in configs:
        if config.name not in by_name:
            raise FailedPrecondition(f"config.pbtxt has an {what} '{config.name}', but the ONNX graph has {list(by_name)}")
    if what == "input" and configs and len(configs) != len(graph):
        left_out = [name for name in by_name if name not in {config.name for config in configs}]
        raise FailedPrecondition(f"config.pbtxt leaves out the inputs {left_out} of the ONNX graph")
    specs = tuple(_declared(by_name[config.name], config, max_batch_size) for config in configs) or graph
    for spec in specs if max_batch_size else ():
        if (spec.graph_shape or spec.shape)[:1] != (-1,) or by_name[spec.name].shape[:1] != (-1,):
            raise FailedPrecondition(
                f"max_batch_size is {max_batch_size}, but the first dimension of '{spec.name}' is not free: its shape is "
                f"{list(by_name[spec.name].shape)}; set max_batch_size to 0 or export the model with a free batch dimension"
            )
    return specs


def _declared(spec: TensorSpec, config: TensorConfig, max_batch_size: int) -> TensorSpec:
    if config.datatype not in ("TYPE_INVALID", spec.datatype.config):
        raise FailedPrecondition(
            f"'{spec.name}' is {spec.datatype.config} in the ONNX graph, but {config.datatype} in config.pbtxt"
        )
    batch = (-1,) if max_batch_size else ()
    shape = (*batch, *config.dims)
    graph_shape = shape if config.reshape is None else (*batch, *config.reshape)
    agree = len(graph_shape) == len(spec.shape) and all(
        a == b or -1 in (a, b) for a, b in zip(graph_shape, spec.shape, strict=True)
    )
    if not agree:
        raise FailedPrecondition(
            f"'{spec.name}' has shape {list(spec.shape)} in the ONNX graph, but {list(graph_shape)} in config.pbtxt"
            f"{' (the batch dimension first)' if batch else ''}"
        )
    if config.reshape is not None and not _same_size(config.dims, config.reshape):
        raise FailedPrecondition(
            f"'{spec.name}' has dims {list(config.dims)} and reshape {list(config.reshape)} in config.pbtxt, "
            f"which don't hold the same number of elements"
        )
    return TensorSpec(spec.name, spec.datatype, shape, graph_shape if config.reshape is not None else None, config.labels)


def _same_size(dims: tuple[int, ...], reshape: tuple[int, ...]) -> bool:
    """Whether the fixed dimensions hold equally many elements, and equally many dimensions are free."""
    fixed = [[size for size in sizes if size != -1] for sizes in (dims, reshape)]
    return len(dims) - len(fixed[0]) == len(reshape) - len(fixed[1]) and math.prod(fixed[0]) == math.prod(fixed[1])


def _reshaped(array: np.ndarray, old: tuple[int, ...], new: tuple[int, ...] | None) -> np.ndarray:
    """Reshapes `array` from `old` to `new`; free dimensions of `new` take the sizes of those of `old`, in order."""
    if new is None:
        return array
    free = iter([size for size, want in zip(array.shape, old, strict=True) if want == -1])
    return array.reshape([next(free) if want == -1 else want for want in new])


def _bracketed(shape: Iterable[int]) -> str:
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
