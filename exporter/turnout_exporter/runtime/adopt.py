"""The child process that takes over an ONNX file: copies it, with its external data, and describes it inside."""

from pathlib import Path

import onnx

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.errors import SourceError
from turnout_exporter.jobs import AdoptJob
from turnout_exporter.spec import reference
from turnout_exporter.spec.signature import TensorSpec, outputs_of

_SINGLE_FILE_BYTES = 1536 * 2**20  #: above, weights stay in a file of their own: protobuf ends at 2 GB


def run(job_fields: Json, _: Channel) -> Json:
    """Does an `AdoptJob`; returns the file's `opset`, and onnx's version in `versions`."""
    job = AdoptJob(**job_fields)
    try:
        model = onnx.load(job.source)
    except Exception as error:  # protobuf's and onnx's errors share no root
        raise SourceError(f"{Path(job.source).name} can't be read with its external data: {error}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props} | job.metadata
    onnx.helper.set_model_props(model, metadata)
    correct_outputs(model, outputs_of(reference.read(Path(job.reference))))
    nbytes = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    path = Path(job.path)
    is_large = nbytes > _SINGLE_FILE_BYTES
    onnx.save(model, path, save_as_external_data=is_large, location=f"{path.name}.data" if is_large else None)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    return {"opset": opset, "versions": {"onnx": onnx.__version__}}


def correct_outputs(model: onnx.ModelProto, outputs: list[TensorSpec]) -> None:
    """Declares each output with its measured shape: converters declare sizes that only their example had, or none."""
    measured = {spec.name: spec for spec in outputs}
    for value in model.graph.output:
        shape = value.type.tensor_type.shape
        shape.Clear()
        for dim in measured[value.name].shape:
            entry = shape.dim.add()
            if isinstance(dim, str):
                entry.dim_param = dim
            elif dim != -1:
                entry.dim_value = dim


if __name__ == "__main__":
    children.answer(run)
