"""A model's inputs and outputs, and the validation of requests against them.

The error texts are those that clients of Triton match on (core/src/infer_request.cc); docs/protocol.md lists them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from turnout_server.core.datatypes import Datatype, of_dtype
from turnout_server.core.errors import FailedPrecondition, InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import TensorConfig


class SizeLimit(NamedTuple):
    """The sizes of a free dimension for which a model was proven.

    Attributes:
        name: what the model's author calls the dimension.
        low, high, step: from, to (both ends included) and by.
    """

    axis: int
    name: str
    low: int
    high: int
    step: int

    def allows(self, size: int) -> bool:
        return self.low <= size <= self.high and (size - self.low) % self.step == 0

    def __str__(self) -> str:
        return f"{self.low}..{self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        shape: as clients see it, with -1 for a free dimension, including the batch dimension.
        graph_shape: the shape in the ONNX graph, if the configuration asks for a reshape; None if it is the same.
        labels: the classes' names for classification, by index.
        optional: whether a request may leave it out, because the graph has a value for it.
        column_shape: for a tensor of one number a row, the shape that Triton gives it: [-1, 1] for [-1], [1] for []. Requests
            may have either. None for other tensors.
        sizes: of free dimensions, as far as they are limited.
        values: the least value and the end of what its integers may be; None for any.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    graph_shape: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()
    optional: bool = False
    column_shape: tuple[int, ...] | None = None
    sizes: tuple[SizeLimit, ...] = ()
    values: tuple[int, int] | None = None

    @cached_property
    def _only_batch_is_free(self) -> bool:
        return self.shape[:1] == (-1,) and -1 not in self.shape[1:]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array may have this shape."""
        if self.is_column(shape):
            return True
        if self._only_batch_is_free:  # the fast path of most models
            return len(shape) > 0 and shape[1:] == self.shape[1:]
        return _matches(self.shape, shape)

    def is_column(self, shape: tuple[int, ...]) -> bool:
        """Whether this is `column_shape`."""
        return self.column_shape is not None and _matches(self.column_shape, shape)


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
        return any(map(_may_be_reshaped, self.inputs))

    @cached_property
    def _reshapes_outputs(self) -> bool:
        return any(map(_may_be_reshaped, self.outputs))

    @cached_property
    def _required(self) -> frozenset[str]:
        return frozenset(spec.name for spec in self.inputs if not spec.optional)

    @cached_property
    def _with_values(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.inputs if spec.values is not None)

    def declares_the_same(self, other: "Signature") -> bool:
        """Whether inputs and outputs have the same names, datatypes and shapes, in any order."""
        return all(
            {(spec.name, spec.datatype, spec.shape) for spec in mine}
            == {(spec.name, spec.datatype, spec.shape) for spec in theirs}
            for mine, theirs in ((self.inputs, other.inputs), (self.outputs, other.outputs))
        )

    def check_values(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Checks the integers of those inputs that may not have every value.

        Raises:
            InvalidRequest: one of them is beyond its range; the text has both.
        """
        for spec in self._with_values:
            array = inputs.get(spec.name)
            if array is None or not array.size or spec.values is None:
                continue
            low, end = spec.values
            if (value := int(array.min())) < low or (value := int(array.max())) >= end:
                raise InvalidRequest(f"input '{spec.name}' has the value {value}, and {low}..{end - 1} is allowed")

    def to_graph(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A valid request's arrays in the shapes of the ONNX graph."""
        if not self._reshapes_inputs:
            return inputs
        return {spec.name: _to_graph(spec, inputs[spec.name]) for spec in self.inputs if spec.name in inputs}

    def to_client(
        self, outputs: dict[str, np.ndarray], inputs: Mapping[str, np.ndarray] = MappingProxyType({})
    ) -> dict[str, np.ndarray]:
        """A run's outputs in the shapes that clients see.

        Args:
            inputs: the request's, which tell in which of two shapes one number a row is wanted.
        """
        if not self._reshapes_outputs:
            return outputs
        as_columns = any(self.input_by_name[name].is_column(array.shape) for name, array in inputs.items())
        return {name: _to_client(self.output_by_name[name], array, as_columns) for name, array in outputs.items()}

    def rows_of(self, request: InferRequest) -> int:
        """Validates a request and returns its number of rows; 1 if the model has no batch dimension.

        Raises:
            InvalidRequest: the request doesn't match; the text names the tensor, and what was sent and expected.
        """
        inputs = request.inputs
        if inputs.keys() != self.input_by_name.keys() and not self._required <= inputs.keys() <= self.input_by_name.keys():
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
        for limit in spec.sizes:
            if limit.axis < array.ndim and not limit.allows(array.shape[limit.axis]):
                raise InvalidRequest(
                    f"input '{spec.name}' of model '{model}': '{limit.name}' is {array.shape[limit.axis]}, allowed {limit}"
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
    graph: tuple[TensorSpec, ...],
    configs: tuple[TensorConfig, ...],
    max_batch_size: int,
    what: str,
    defaults: tuple[TensorSpec, ...] = (),
) -> tuple[TensorSpec, ...]:
    """The inputs (or outputs) of an ONNX graph as the configuration declares them; those of the graph if it declares none.

    Args:
        what: `input` or `output`, for error messages.
        defaults: inputs of the graph that have a value of their own; they count only if the configuration declares them.

    Raises:
        FailedPrecondition: the configuration contradicts the graph.
    """
    by_name, by_default = ({spec.name: spec for spec in specs} for specs in (graph, defaults))
    for config in configs:
        _check_is_there(config, by_name, by_default, what)
    left_out = [name for name in by_name if name not in {config.name for config in configs}]
    if what == "input" and configs and left_out:
        raise FailedPrecondition(f"config.pbtxt leaves out the inputs {left_out} of the ONNX graph")
    known = by_default | by_name
    specs = tuple(_declared(known[config.name], config, max_batch_size) for config in configs)
    specs = specs or tuple(_with_column(spec, max_batch_size) for spec in graph)
    for spec in specs if max_batch_size else ():
        if known[spec.name].shape == ():
            raise FailedPrecondition(
                f"max_batch_size is {max_batch_size}, but the ONNX graph states no dimensions for '{spec.name}'; give its dims "
                f"in an {what} section of config.pbtxt if it has some, or set max_batch_size to 0"
            )
        if _shape_in_graph(spec)[:1] != (-1,) or known[spec.name].shape[:1] != (-1,):
            raise FailedPrecondition(
                f"max_batch_size is {max_batch_size}, but the first dimension of '{spec.name}' is not free: its shape is "
                f"{list(known[spec.name].shape)}; set max_batch_size to 0 or export the model with a free batch dimension"
            )
    return specs


def _check_is_there(config: TensorConfig, by_name: dict[str, TensorSpec], by_default: dict[str, TensorSpec], what: str) -> None:
    """Raises FailedPrecondition if the graph has no such input (or output), or not as the configuration says."""
    if config.name in by_default and not config.optional:
        raise FailedPrecondition(f"input '{config.name}' has a value in the ONNX graph: declare it with optional: true")
    if config.name in by_name and config.optional:
        raise FailedPrecondition(f"input '{config.name}' is declared optional, but the ONNX graph has no value for it")
    if config.name not in by_name and config.name not in by_default:
        raise FailedPrecondition(f"config.pbtxt has an {what} '{config.name}', but the ONNX graph has {list(by_name)}")


def _declared(spec: TensorSpec, config: TensorConfig, max_batch_size: int) -> TensorSpec:
    if config.datatype not in ("TYPE_INVALID", spec.datatype.config):
        raise FailedPrecondition(
            f"'{spec.name}' is {spec.datatype.config} in the ONNX graph, but {config.datatype} in config.pbtxt"
        )
    batch = (-1,) if max_batch_size else ()
    shape, graph_shape = (*batch, *config.dims), graph_shape_of(config, max_batch_size)
    reshaped = config.reshape is not None
    if not spec.shape and graph_shape and set(graph_shape) == {1}:  # Triton writes a scalar so
        graph_shape, reshaped = (), True
    if not _agree(graph_shape, spec.shape):
        raise FailedPrecondition(
            f"'{spec.name}' has shape {list(spec.shape)} in the ONNX graph, but {list(graph_shape)} in config.pbtxt"
            f"{' (the batch dimension first)' if batch else ''}"
        )
    if config.reshape is not None and not _same_size(config.dims, config.reshape):
        raise FailedPrecondition(
            f"'{spec.name}' has dims {list(config.dims)} and reshape {list(config.reshape)} in config.pbtxt, "
            f"which don't hold the same number of elements"
        )
    return TensorSpec(spec.name, spec.datatype, shape, graph_shape if reshaped else None, config.labels, config.optional)


def graph_shape_of(config: TensorConfig, max_batch_size: int) -> tuple[int, ...]:
    """The shape in the ONNX graph that a declaration states."""
    return (*((-1,) if max_batch_size else ()), *(config.dims if config.reshape is None else config.reshape))


def _with_column(spec: TensorSpec, max_batch_size: int) -> TensorSpec:
    """The tensor, also with the shape that Triton gives it if it is one number a row."""
    row = (-1,) if max_batch_size else ()
    return replace(spec, column_shape=(*row, 1)) if spec.shape == row else spec


def _shape_in_graph(spec: TensorSpec) -> tuple[int, ...]:
    return spec.shape if spec.graph_shape is None else spec.graph_shape


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _matches(wanted: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a shape has the wanted sizes, where -1 stands for any."""
    return len(shape) == len(wanted) and all(want in (-1, got) for want, got in zip(wanted, shape, strict=True))


def _may_be_reshaped(spec: TensorSpec) -> bool:
    return spec.graph_shape is not None or spec.column_shape is not None


def _to_graph(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    if spec.is_column(array.shape):
        return array.reshape(array.shape[:-1])
    return _reshaped(array, spec.shape, spec.graph_shape)


def _to_client(spec: TensorSpec, array: np.ndarray, as_column: bool) -> np.ndarray:
    if spec.graph_shape is not None:
        return _reshaped(array, spec.graph_shape, spec.shape)
    return array[..., np.newaxis] if as_column and spec.column_shape and array.ndim == len(spec.shape) else array


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
    missing = [spec.name for spec in signature.inputs if not spec.optional and spec.name not in request.inputs]
    unexpected = [name for name in got if name not in want]
    if missing and len(got) == len(want):  # as many as there are, so some have other names
        return InvalidRequest(
            f"unexpected inference input '{unexpected[0]}' for model '{request.model}'; it takes {want}. "
            f"Got input(s) {got}, but missing required input(s) {missing}. Please provide all required input(s)."
        )
    if missing:
        return InvalidRequest(
            f"expected {len(want)} inputs but got {len(got)} inputs for model '{request.model}'. "
            f"Got input(s) {got}, but missing required input(s) {missing}. Please provide all required input(s)."
        )
    return InvalidRequest(f"unexpected inference input '{unexpected[0]}' for model '{request.model}'; it takes {want}")
