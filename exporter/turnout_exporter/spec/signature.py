"""A model's inputs and outputs, measured with PyTorch at the points that were tried.

They aren't read from the ONNX file, because a graph may declare a size that only the example had.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from turnout_exporter.errors import ConversionError, SpecError
from turnout_exporter.spec.datatypes import of_array
from turnout_exporter.spec.inputspec import Bounds, InputSpec
from turnout_exporter.spec.points import BATCH, Point
from turnout_exporter.spec.reference import Sample

Dim = int | str  #: a fixed size, the name of a free dimension, or -1 for a size that follows from others


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        datatype: the protocol's name, such as `FP32`.
        bounds: the range of an input's values, upper bound excluded.
        kind: `mask`, `padding` or `lengths` for an input whose values are more than a range says.
        limit: the dimension whose size limits an input's values, after `<` or `<=`.
        labels: the names of the classes along an output's last axis.
    """

    name: str
    datatype: str
    shape: tuple[Dim, ...]
    bounds: Bounds | None = None
    kind: str = ""
    limit: str = ""
    labels: tuple[str, ...] = ()

    @property
    def numeric_shape(self) -> tuple[int, ...]:
        """The shape with -1 for every size that isn't fixed."""
        return tuple(dim if isinstance(dim, int) else -1 for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs.

    Attributes:
        mixed: the outputs whose rows depend on each other.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    mixed: tuple[str, ...] = ()

    @property
    def batch_axis(self) -> int | None:
        """0 if axis 0 of every input and output is a batch of rows that don't depend on each other, else None."""
        return None if self.without_batch or self.mixed else 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the output that has some."""
        return next((spec.labels for spec in self.outputs if spec.labels), ())

    @property
    def without_batch(self) -> list[str]:
        """The tensors because of which axis 0 isn't a batch, such as `input 'temperature'`."""
        sides = (("input", self.inputs), ("output", self.outputs))
        return [f"{side} {spec.name!r}" for side, specs in sides for spec in specs if spec.shape[:1] != (BATCH,)]


def measure(specs: list[InputSpec], samples: list[Sample], mixed: Iterable[str] = ()) -> Signature:
    """The signature: inputs as specified, outputs as measured."""
    return Signature(inputs_of(specs), outputs_of(samples), tuple(mixed))


def inputs_of(specs: Iterable[InputSpec]) -> list[TensorSpec]:
    """The inputs as specified."""
    return [TensorSpec(spec.name, spec.datatype.name, spec.dims, spec.bounds, spec.kind, _relation(spec)) for spec in specs]


def _relation(spec: InputSpec) -> str:
    return f"{'<' if spec.below else '<='}{spec.limit}" if spec.limit else ""


def outputs_of(samples: list[Sample]) -> list[TensorSpec]:
    """The outputs as measured: a size that was the same at every point is fixed.

    Raises:
        ConversionError: an output has another number of dimensions at another point, or is missing there.
    """
    points = [sample.point for sample in samples]
    specs = []
    for name, first in samples[0].outputs.items():
        shapes = [_shape_like(samples[0], sample, name) for sample in samples]
        axes = [_dim([shape[axis] for shape in shapes], points) for axis in range(first.ndim)]
        specs.append(TensorSpec(name, of_array(first).name, tuple(axes)))
    return specs


def _shape_like(base: Sample, sample: Sample, name: str) -> tuple[int, ...]:
    """An output's shape, after checking that it has as many dimensions as at the base point."""
    shapes = [s.outputs[name].shape if name in s.outputs else None for s in (base, sample)]
    if shapes[1] is None or len(shapes[1]) != base.outputs[name].ndim:
        was, became = (list(shape) if shape is not None else "missing" for shape in shapes)
        raise ConversionError(
            f"output {name!r} is {was} at {base.point.label} but {became} at {sample.point.label}; "
            f"forward must return the same structure at every size (squeeze() drops each dimension that happens to be 1)"
        )
    return shapes[1]


def _dim(sizes: list[int], points: list[Point]) -> Dim:
    if len(set(sizes)) == 1:
        return sizes[0]
    for dim in points[0].sizes:
        if sizes == [point.sizes[dim] for point in points]:
            return dim
    return -1


def with_labels(signature: Signature, labels: tuple[str, ...]) -> Signature:
    """The signature with the labels on the one output whose last axis has their number.

    Raises:
        SpecError: no output fits, or several do.
    """
    fitting = [spec for spec in signature.outputs if spec.shape[-1:] == (len(labels),)]
    if len(fitting) != 1:
        raise SpecError(
            f"{len(labels)} labels fit {len(fitting)} outputs, not one: the last dimension must be {len(labels)} in one of "
            f"{', '.join(map(str, signature.outputs))}"
        )
    outputs = [replace(spec, labels=labels) if spec is fitting[0] else spec for spec in signature.outputs]
    return replace(signature, outputs=outputs)
