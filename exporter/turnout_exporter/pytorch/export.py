"""The child process that runs PyTorch: builds the model, writes its outputs at every point, and exports it.

A process exports only once: torch 2.13 fixes the sequence length of a second LSTM, and of any later one.
"""

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxscript
import torch
from torch import Tensor, nn

from turnout_exporter import children
from turnout_exporter.children import Json, Step
from turnout_exporter.errors import ConversionError, SourceError
from turnout_exporter.jobs import Built, ExportJob
from turnout_exporter.pytorch import graph, weights
from turnout_exporter.pytorch.outputs import named_outputs
from turnout_exporter.spec import reference
from turnout_exporter.spec.inputspec import InputSpec, dims_of, parse_inputs
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample
from turnout_exporter.spec.signature import outputs_of
from turnout_exporter.spec.sources import Source


@dataclass(frozen=True)
class Call:
    """How `forward` gets its inputs: by keyword if they have the names of its parameters, else by position."""

    model: nn.Module
    by_name: bool

    @classmethod
    def of(cls, model: nn.Module, inputs: list[InputSpec]) -> Self:
        """Decides between keyword and position.

        Raises:
            SourceError: only some of the names are parameters, so the others are probably misspelt.
        """
        parameters = list(inspect.signature(model.forward).parameters)
        unknown = [spec.name for spec in inputs if spec.name not in parameters]
        if unknown and len(unknown) < len(inputs):
            raise SourceError(f"forward has no parameter {', '.join(unknown)}; it has {', '.join(parameters)}")
        return cls(model, by_name=not unknown)

    def arguments(self, values: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The args and kwargs of a call, from one value for each input."""
        return ((), values) if self.by_name else (tuple(values.values()), {})

    def __call__(self, arrays: reference.Arrays) -> object:
        args, kwargs = self.arguments({name: torch.from_numpy(array) for name, array in arrays.items()})
        with torch.inference_mode():
            return self.model(*args, **kwargs)


def run(job_fields: Json, step: Step) -> Json:
    """Does an `ExportJob`; returns `Built` as a dict."""
    job = ExportJob(**job_fields)
    torch.set_num_threads(children.THREADS)
    torch.manual_seed(0)
    inputs = parse_inputs(job.inputs)
    model, source_file = _build(job)
    call = Call.of(model, inputs)
    step(f"Running PyTorch at {len(job.points)} points")
    samples = [sample_at(Point.parse(label), call, inputs, job.output_names) for label in job.points]
    outputs = outputs_of(samples)
    reference.write(Path(job.reference), samples)
    step("Exporting with torch.onnx")
    program = _export(call, inputs, samples[0], job.opset)
    graph.strip_metadata(program.model)
    graph.correct_shapes(program.model, outputs)
    program.save(job.model)  # weights over 1.5 GB go into a .data file beside it
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxscript": onnxscript.__version__}
    return asdict(Built(str(source_file) if source_file else None, _precision(model), versions))


def _build(job: ExportJob) -> tuple[nn.Module, Path | None]:
    model, file = Source.parse(job.source).call(job.kwargs)
    if not isinstance(model, nn.Module):
        raise SourceError(f"{job.source} made a {type(model).__name__}, not a torch.nn.Module; let it return the model")
    if job.weights:
        weights.load_into(model, Path(job.weights))
    return model.eval(), file


def sample_at(point: Point, call: Call, inputs: list[InputSpec], output_names: list[str] | None) -> Sample:
    """Runs the model at one point on random values.

    Raises:
        ConversionError: it fails, or its outputs can't be used as a reference.
    """
    random = point.random()
    arrays = {spec.name: spec.draw(point.sizes, random) for spec in inputs}
    try:
        answer = call({name: array.copy() for name, array in arrays.items()})  # forward may write into its inputs
    except Exception as error:  # the user's code may raise anything
        raise ConversionError(
            f"the model itself fails at {point.label}: {type(error).__name__}: {error}. "
            f"If it can't take that size, say which it can with --range dim=low..high; if not those values, with @low:high"
        ) from error
    outputs = named_outputs(answer, output_names)
    for name in arrays.keys() & outputs.keys():
        raise ConversionError(f"an input and an output are both called {name!r}; rename the output with --output-names")
    return Sample(point, arrays, {name: _array(name, tensor, point) for name, tensor in outputs.items()})


def _array(name: str, tensor: Tensor, point: Point) -> np.ndarray:
    """An output as a numpy array, after checking that it can be used as a reference."""
    if tensor.dtype == torch.bfloat16:
        raise ConversionError(f"output {name!r} is bfloat16, which can't be served; let forward return .float()")
    if tensor.numel() and not tensor.isfinite().any():
        raise ConversionError(
            f"output {name!r} has no finite value at {point.label}, which proves nothing; "
            f"load --weights or give the inputs their range, @low:high"
        )
    array: np.ndarray = tensor.detach().cpu().contiguous().numpy()
    return array


def _export(call: Call, inputs: list[InputSpec], base: Sample, opset: int) -> torch.onnx.ONNXProgram:
    args, kwargs = call.arguments({name: torch.from_numpy(array) for name, array in base.inputs.items()})
    free = {spec.name: {axis: dim for axis, dim in enumerate(spec.dims) if isinstance(dim, str)} for spec in inputs}
    try:
        program = torch.onnx.export(
            call.model,
            args,
            kwargs=kwargs,
            dynamic_shapes=(free if call.by_name else tuple(free.values())) if dims_of(inputs) else None,
            input_names=[spec.name for spec in inputs],
            output_names=list(base.outputs),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ConversionError(f"torch.onnx can't export the model: {_reason(error)}") from error
    assert program is not None  # None only with dynamo=False
    return program


def _reason(error: BaseException) -> str:
    """The first lines of the root cause, which torch wraps in pages of advice."""
    while error.__cause__:
        error = error.__cause__
    return "\n  ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:4]])


def _precision(model: nn.Module) -> str:
    """The precision of the weights, such as `fp32`."""
    floats = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return "fp16" if torch.float16 in floats else "fp64" if floats == {torch.float64} else "fp32"


if __name__ == "__main__":
    children.answer(run)
