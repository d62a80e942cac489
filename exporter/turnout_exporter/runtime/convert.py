"""The child process that makes a variant of an ONNX file in another precision.

int8 is done by what the graph is. Convolutions are quantized statically: their activations' ranges come from calibration data,
because ranges measured in each run made ResNet-50 three times slower than float32. Transformers and LSTMs are quantized
dynamically: their activations vary more, and it needs no data.
"""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.errors import Refused
from turnout_exporter.examination import Subject
from turnout_exporter.importing import load_draw
from turnout_exporter.jobs import VariantJob
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Arrays
from turnout_exporter.spec.sources import Function

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_DYNAMIC = ("MatMul", "Gemm", "Attention", "LSTM")
_HEAVY = (*_CONVOLUTIONS, *_DYNAMIC, "GRU", "RNN")
#: A network counts as convolutional if its convolutions have at least this share of its weights: a vision transformer has one
#: for its patches.
_CONVOLUTIONAL_SHARE = 0.2
_PROTOBUF_BYTES = 2**31


def run(job_fields: Json, channel: Channel) -> Json:
    """Does a `VariantJob`; returns how it was done, as `method`."""
    job = VariantJob(**job_fields)
    path, output = Path(job.path), Path(job.output)
    if sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) >= _PROTOBUF_BYTES:
        raise Refused("the converters of ONNX Runtime take files up to 2 GB, and this one is larger")
    if job.variant == "fp16":
        _to_float16(path, output)
        method = "float16 weights and activations, float32 inputs and outputs"
    else:
        with TemporaryDirectory(dir=output.parent.parent) as directory:
            prepared = Path(directory) / "prepared.onnx"
            channel.detail("folding constants")
            _fold_constants(path, prepared)
            method = _quantize(prepared, output, job, channel)
    _restore_metadata(path, output)
    return {"method": method}


def _quantize(prepared: Path, output: Path, job: VariantJob, channel: Channel) -> str:
    """Writes the int8 file; returns how it was done."""
    if convolutional_share(onnx.load(prepared)) < _CONVOLUTIONAL_SHARE:
        quantize_dynamic(prepared, output, op_types_to_quantize=list(_DYNAMIC), weight_type=QuantType.QInt8)
        return "dynamic, 8-bit weights"
    batches = _calibration(job, channel)
    _quantize_statically(prepared, output, _Reader(batches, channel))
    return f"static, 8-bit activations and weights per channel, calibrated with {len(batches)} batches"


def convolutional_share(model: onnx.ModelProto) -> float:
    """The share of a model's weights that belong to convolutions."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    owned = {kernel for node in model.graph.node if node.op_type in _CONVOLUTIONS for kernel in node.input[1:2]}
    return sum(sizes.get(name, 0) for name in owned) / max(1, sum(sizes.values()))


def after_the_last_heavy_node(model: onnx.ModelProto) -> list[str]:
    """The nodes that no convolution or matrix product depends on: they scale and combine results, which 8 bits would ruin."""
    producers = {name: node for node in model.graph.node for name in node.output}
    needed: set[str] = set()
    waiting = [node for node in model.graph.node if node.op_type in _HEAVY]
    while waiting:
        node = waiting.pop()
        if node.name in needed:
            continue
        needed.add(node.name)
        waiting += [producers[name] for name in node.input if name in producers]
    return [node.name for node in model.graph.node if node.name not in needed]


def _to_float16(path: Path, output: Path) -> None:
    """float16 inside; ONNX Runtime's converter leaves nodes in an order that ONNX doesn't allow, so they are sorted."""
    converted = onnx_ir.from_proto(convert_float_to_float16(onnx.load(path), keep_io_types=True))
    TopologicalSortPass()(converted)
    onnx_ir.save(converted, output)


def _fold_constants(path: Path, prepared: Path) -> None:
    """Computes what doesn't depend on inputs: torch writes the weights of an LSTM in parts, which aren't quantized as such."""
    path, prepared = path.resolve(), prepared.resolve()
    with chdir(prepared.parent):  # where shape inference fails, it leaves files in the current folder
        try:
            quant_pre_process(path, prepared)
        except Exception:  # symbolic shape inference doesn't know every operator; without it, less is fused
            quant_pre_process(path, prepared, skip_symbolic_shape=True)


def _quantize_statically(prepared: Path, output: Path, reader: "_Reader") -> None:
    quantize_static(
        prepared,
        output,
        reader,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=after_the_last_heavy_node(onnx.load(prepared)),
    )


def _calibration(job: VariantJob, channel: Channel) -> list[Arrays]:
    """Batches of real inputs.

    Raises:
        Refused: nothing gives any.
    """
    if job.samples is None:
        raise Refused(
            "int8 of a network with convolutions needs real inputs, from which the ranges of its activations are measured: "
            "give --samples module:function"
        )
    channel.detail("collecting calibration data")
    subject = Subject(lambda arrays: arrays, parse_inputs(job.inputs), load_draw(Function.parse(job.samples, "--samples")))
    batches: list[Arrays] = []
    for label in job.calibration:
        batch = subject.inputs_at(Point.parse(label))
        if any(all(np.array_equal(batch[name], known[name]) for name in batch) for known in batches):
            break  # the function gives the same values each time
        batches.append(batch)
    return batches


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime publishes no types
    """Gives one batch after another, and tells how far it is: each runs with every inner value as an output."""

    def __init__(self, batches: list[Arrays], channel: Channel) -> None:
        self._batches: Iterator[tuple[int, Arrays]] = iter(enumerate(batches, 1))
        self._count = len(batches)
        self._channel = channel

    def get_next(self) -> Any:
        number, batch = next(self._batches, (0, None))
        self._channel.detail(f"calibrating, batch {number} of {self._count}" if batch else "quantizing")
        return batch


def _restore_metadata(source: Path, target: Path) -> None:
    """Gives the variant the metadata of the file that it was made from."""
    metadata = {entry.key: entry.value for entry in onnx.load(source, load_external_data=False).metadata_props}
    model = onnx.load(target)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, target)


if __name__ == "__main__":
    children.answer(run)
