"""The child process that exports a PyTorch model to ONNX, by one of torch's two exporters.

A process exports only once: torch 2.13 fixes the sequence length of a second LSTM, and of any later one.
"""

import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from io import TextIOBase
from pathlib import Path

import onnx
import onnx_ir
import onnxscript
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.errors import ConversionError, ValueBranch
from turnout_exporter.jobs import ExportJob, ModelJob
from turnout_exporter.pytorch import graph
from turnout_exporter.pytorch.build import build
from turnout_exporter.pytorch.forward import Forward
from turnout_exporter.pytorch.packed import WithPackedOutputs
from turnout_exporter.pytorch.places import last_own_place
from turnout_exporter.pytorch.subject import check_same, forward_of
from turnout_exporter.pytorch.value_reads import ValueReads
from turnout_exporter.spec import reference
from turnout_exporter.spec.inputspec import InputSpec, dims_of, parse_inputs
from turnout_exporter.spec.signature import outputs_of

_BY_VALUE = "forward decides by a value of a tensor{}, which ONNX can't follow: compute both cases, and choose with torch.where"
_REASON_LINES = 4
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours
_MISSING_OPERATOR = re.compile(r"(?:No ONNX function found for <OpOverload\(op='|Exporting the operator ')([\w.:]+)'")
_PROGRESS = re.compile(r"(Obtain model graph|Run decompositions|Translate the graph|Optimize the ONNX graph)")
_SINGLE_FILE_BYTES = 1536 * 2**20  #: above, weights go into a file of their own: protobuf ends at 2 GB


def run(job_fields: Json, channel: Channel) -> Json:
    """Does an `ExportJob`; returns the versions of the packages that exported, as `versions`."""
    job = ExportJob(**job_fields)
    built = build(ModelJob(**job.model))
    check_same(built, job.fingerprint)
    inputs = parse_inputs(job.inputs)
    forward = forward_of(built, inputs, job.selected)
    samples = reference.read(Path(job.reference))
    tensors = tuple(torch.from_numpy(samples[0].inputs[name].copy()) for name in forward.names)
    export = _torchscript if job.exporter == "torchscript" else _dynamo
    reads = ValueReads(len(tensors))
    with redirect_stdout(_Lines(channel)), reads if job.exporter == "torchscript" else nullcontext():
        model = export(forward, tensors, inputs, list(samples[0].outputs), job)
    for place in reads.places:
        if not job.keep_values:
            raise ValueBranch(_BY_VALUE.format(place))
        channel.note(f"forward reads a value of a tensor{place}: the published model always has the one of the export")
    graph.strip_metadata(model)
    graph.make_names_unique(model)
    graph.correct_shapes(model, outputs_of(samples))
    model.metadata_props.update(job.metadata)
    _save(model, Path(job.path))
    return {"versions": {"onnx": onnx.__version__, "onnxscript": onnxscript.__version__}}


def _dynamo(
    forward: Forward, tensors: tuple[Tensor, ...], inputs: list[InputSpec], output_names: list[str], job: ExportJob
) -> onnx_ir.Model:
    try:
        program = torch.onnx.export(
            forward,
            tensors,
            dynamic_shapes={"tensors": tuple(_free(inputs))} if dims_of(inputs) else None,
            input_names=[spec.name for spec in inputs],
            output_names=output_names,
            opset_version=job.opset,
            dynamo=True,
            verbose=True,
        )
    except torch.onnx.OnnxExporterError as error:
        if isinstance(root_of(error), GuardOnDataDependentSymNode):
            raise ValueBranch(_BY_VALUE.format(_place(error))) from error
        raise ConversionError(f"torch.onnx can't export the model: {reason(error)}") from error
    assert program is not None  # None only with dynamo=False
    return program.model


def _torchscript(
    forward: Forward, tensors: tuple[Tensor, ...], inputs: list[InputSpec], output_names: list[str], job: ExportJob
) -> onnx_ir.Model:
    """The older exporter, which records the operators of one run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, which says nothing about the result
            torch.onnx.export(
                WithPackedOutputs(forward),
                tensors,
                job.path,
                dynamic_axes={spec.name: axes for spec, axes in zip(inputs, _free(inputs), strict=True) if axes},
                input_names=[spec.name for spec in inputs],
                output_names=output_names,
                opset_version=job.opset,
                dynamo=False,
            )
    except Exception as error:  # the exporter's errors share no root
        raise ConversionError(f"the TorchScript exporter can't export the model: {reason(error)}") from error
    model = onnx_ir.load(job.path)
    graph.keep_outputs(model, len(output_names))
    return model


def _free(inputs: list[InputSpec]) -> list[dict[int, str]]:
    """The names of each input's free dimensions by axis."""
    return [{axis: dim for axis, dim in enumerate(spec.dims) if isinstance(dim, str)} for spec in inputs]


def _save(model: onnx_ir.Model, path: Path) -> None:
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    onnx_ir.save(model, path, external_data=f"{path.name}.data" if weights > _SINGLE_FILE_BYTES else None)


def root_of(error: BaseException) -> BaseException:
    """The error that the others were raised for."""
    while error.__cause__:
        error = error.__cause__
    return error


def _place(error: BaseException) -> str:
    """Where in the user's code it happened; empty if that isn't known."""
    return last_own_place(frame for each in _chain(error) for frame in traceback.extract_tb(each.__traceback__))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__


def reason(error: BaseException) -> str:
    """Why torch can't export, in the first lines of the root cause: torch wraps it in pages of advice."""
    error = root_of(error)
    text = _ESCAPES.sub("", str(error)).strip()
    if operator := _MISSING_OPERATOR.search(text):
        return f"the operator {operator[1].replace('::', '.')} has no counterpart in ONNX; compute it outside of the model"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:_REASON_LINES])}"


class _Lines(TextIOBase):
    """Takes what torch prints while it exports, and tells the parent its steps."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def write(self, text: str) -> int:
        found = _PROGRESS.search(text)
        if found:
            self._channel.detail(found[1])
        return len(text)


if __name__ == "__main__":
    children.answer(run)
