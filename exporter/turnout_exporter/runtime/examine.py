"""The child process that examines an ONNX file: its inputs and outputs, whether it is stable, and the sizes that it takes.

What is right is said by a function of the user's, or else by ONNX Runtime itself without its optimizations.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.errors import ConversionError, SourceError, SpecError
from turnout_exporter.examination import (
    Run,
    Subject,
    differing,
    find_base,
    find_limits,
    mixed_outputs,
    points_of,
    size_notes,
    take_samples,
)
from turnout_exporter.importing import load_draw, load_function
from turnout_exporter.jobs import Examined, ExamineJob, ModelJob
from turnout_exporter.runtime.sessions import open_session, run_session
from turnout_exporter.spec.datatypes import BY_ONNX
from turnout_exporter.spec.inputspec import InputSpec, dims_of, parse_inputs
from turnout_exporter.spec.points import BATCH, Limits, Point, batch_limits, check_ranges
from turnout_exporter.spec.reference import Arrays
from turnout_exporter.spec.sources import Function

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
_QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


def run(job_fields: Json, channel: Channel) -> Json:
    """Does an `ExamineJob`; returns `Examined` as a dict."""
    job = ExamineJob(**job_fields)
    path = Path(ModelJob(**job.model).source)
    session = open_session(path, optimized=False)
    inputs = given_or_declared(declared_inputs(session), parse_inputs(job.inputs))
    outputs = [output.name for output in session.get_outputs()]
    for output in session.get_outputs():
        check_served("output", output)
    unoptimized = _runner(session)
    draw = load_draw(Function.parse(job.samples, "--samples") if job.samples else None)
    subject = Subject(unoptimized, inputs, draw)
    check_ranges(dims_of(inputs), job.ranges)
    ranges = {dim: Limits(*limit) for dim, limit in job.ranges.items()}
    given, max_batch_size = batch_limits(dims_of(inputs), ranges, job.max_batch_size)
    model = onnx.load(path, load_external_data=False)

    channel.step("Running it twice on the same inputs")
    base = find_base(subject, given, {})
    _check_stable(model, unoptimized, subject.inputs_at(Point(base)))
    channel.step("Looking for the sizes that it takes")
    base, limits = find_limits(subject, base, given, {})
    for note in size_notes(subject, base, limits, given):
        channel.note(note)
    points = points_of(subject, base, limits)
    channel.step(f"Running the reference at {len(points)} points")
    if job.reference_function:
        subject = Subject(_judged_by(job.reference_function, unoptimized), inputs, draw)
    samples = take_samples(subject, points, Path(job.reference), channel.detail)
    return asdict(
        Examined(
            inputs=[str(spec) for spec in inputs],
            base=base,
            limits={dim: [limit.low, limit.high, limit.step] for dim, limit in limits.items()},
            max_batch_size=max_batch_size,
            selected=outputs,
            output_names=outputs,
            precision=_precision(model),
            weight_bytes=sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")),
            fingerprint=0,
            source_file=None,
            versions=_versions(model),
            mixed=mixed_outputs(subject, samples[0]),
        )
    )


def declared_inputs(session: ort.InferenceSession) -> list[InputSpec]:
    """The inputs as the file declares them; a free dimension without a name gets one, `batch` on axis 0.

    Raises:
        SourceError: one of them isn't a tensor that can be served.
    """
    names: dict[object, str] = {}
    specs = []
    for arg in session.get_inputs():
        check_served("input", arg)
        dims = [
            dim if isinstance(dim, int) and dim > 0 else _dim_name(dim, axis, (arg.name, axis), names)
            for axis, dim in enumerate(arg.shape)
        ]
        specs.append(InputSpec(arg.name, BY_ONNX[arg.type], tuple(dims)))
    return specs


def _dim_name(dim: object, axis: int, where: object, names: dict[object, str]) -> str:
    """A name for a free dimension. Axis 0 is the batch: converters call it N, None, unk__6 or nothing at all."""
    if axis == 0:
        return names.setdefault(dim or BATCH, BATCH)
    if isinstance(dim, str) and dim.isidentifier():
        return names.setdefault(dim, dim)
    return names.setdefault(dim or where, f"dim_{len(names)}")


def given_or_declared(declared: list[InputSpec], given: list[InputSpec]) -> list[InputSpec]:
    """The declared inputs, each replaced by the given one of its name.

    Raises:
        SpecError: a given input isn't declared, or its type or shape isn't.
    """
    by_name = {spec.name: spec for spec in given}
    if unknown := by_name.keys() - {spec.name for spec in declared}:
        raise SpecError(f"the file has no input {', '.join(sorted(unknown))}; it has {', '.join(map(str, declared))}")
    return [_checked(by_name[spec.name], spec) if spec.name in by_name else spec for spec in declared]


def _checked(given: InputSpec, declared: InputSpec) -> InputSpec:
    fits = len(given.dims) == len(declared.dims) and all(
        isinstance(free, str) or dim == free for dim, free in zip(given.dims, declared.dims, strict=True)
    )
    if given.datatype != declared.datatype or not fits:
        raise SpecError(f"input '{given}' isn't the file's, which is '{declared}': write its type and its fixed sizes")
    return given


def check_served(side: str, arg: ort.NodeArg) -> None:
    """Raises SourceError for an input or output that isn't a tensor of a type that the protocol has, with the fix."""
    if arg.type in BY_ONNX:
        return
    if "map(" in arg.type:
        fix = "convert without ZipMap: options={'zipmap': False} in skl2onnx, zipmap=False in onnxmltools"
    elif arg.type.startswith("seq("):
        fix = "let the model stack it into one tensor (ConcatFromSequence with new_axis=1), or leave it out"
    elif arg.type.startswith("optional("):
        fix = "convert the model without optional values"
    else:
        fix = f"cast it to one of {', '.join(datatype.spelling for datatype in BY_ONNX.values())}"
    raise SourceError(f"{side} {arg.name!r} is {arg.type}, which can't be served: {fix}")


def _runner(session: ort.InferenceSession) -> Run:
    def run_arrays(arrays: Arrays) -> Arrays:
        return run_session(session, arrays)

    return run_arrays


def _judged_by(reference: str, unoptimized: Run) -> Run:
    """Runs the user's function; the outputs that it doesn't give come from the file."""
    function = load_function(Function.parse(reference, "--reference"))

    def run_reference(arrays: Arrays) -> Arrays:
        own = unoptimized(arrays)
        try:
            answer = function({name: array.copy() for name, array in arrays.items()})
        except Exception as error:  # the user's code may raise anything
            raise SourceError(f"{reference} raised {type(error).__name__}: {error}") from error
        given = dict(answer) if isinstance(answer, Mapping) else {next(iter(own)): answer}
        for name in given.keys() - own.keys():
            raise SourceError(f"{reference} returned {name!r}, which is no output; the file has {', '.join(own)}")
        return own | {name: _like(value, own[name], f"{reference}: output {name!r}") for name, value in given.items()}

    return run_reference


def _like(given: object, own: np.ndarray, what: str) -> np.ndarray:
    """The right values in the file's type: libraries compute in float64 what the file computes in float32."""
    array = np.asarray(given)
    if array.shape != own.shape:
        raise SourceError(f"{what} has the shape {list(array.shape)}, and the file's has {list(own.shape)}")
    kinds = {array.dtype.kind, own.dtype.kind}
    if not (kinds <= set("iuf") or kinds <= set("OU") or len(kinds) == 1):
        raise SourceError(f"{what} is {array.dtype.name}, and the file's is {own.dtype.name}")
    return array.astype(own.dtype if own.dtype.kind != "U" else np.str_)


def _check_stable(model: onnx.ModelProto, run_arrays: Run, arrays: Arrays) -> None:
    """Raises ConversionError if the file answers differently on the same inputs."""
    if unstable := differing(run_arrays(arrays), run_arrays(arrays)):
        drawn = [f"{node.op_type} {node.name!r}" for node in model.graph.node if node.op_type in _RANDOM]
        raise ConversionError(
            f"the model answers differently each time on the same inputs (output {unstable[0]!r}), so it can't be verified: "
            f"it draws random numbers ({', '.join(drawn) or 'somewhere inside'}); convert it in inference mode"
        )


def _precision(model: onnx.ModelProto) -> str:
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        return "int8"
    types = {tensor.data_type for tensor in model.graph.initializer}
    return "fp16" if onnx.TensorProto.FLOAT16 in types else "fp32"


def _versions(model: onnx.ModelProto) -> dict[str, str]:
    """What converted the file, as it says itself, and the libraries that the reference uses."""
    found = {model.producer_name: model.producer_version or "unknown"} if model.producer_name else {}
    for name in ("sklearn", "lightgbm", "xgboost", "keras", "tensorflow"):
        if version := getattr(sys.modules.get(name), "__version__", ""):
            found[name] = version
    return found


if __name__ == "__main__":
    children.answer(run)
