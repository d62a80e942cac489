"""The child process that reads what is in an ONNX file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.errors import SourceError
from turnout_exporter.jobs import Inspected, InspectJob

_REMOTE = ("AzureExecutionProvider",)  #: sends requests to a service instead of running the model


def run(job_fields: Json, _: Channel) -> Json:
    """Does an `InspectJob`; returns `Inspected` as a dict."""
    job = InspectJob(**job_fields)
    try:
        model = onnx.load(job.path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no root
        raise SourceError(f"{Path(job.path).name} can't be read as an ONNX file: {error}") from error
    graphs = list(_graphs(model.graph))
    operators = Counter(_name(node) for graph in graphs for node in graph.node)
    operators.update(_name(node) for function in model.functions for node in function.node)
    weights = {tensor.name for tensor in model.graph.initializer}
    return asdict(
        Inspected(
            opset=next((entry.version for entry in model.opset_import if not entry.domain), 0),
            operators=dict(operators.most_common()),
            parameters=sum(prod(tensor.dims) for graph in graphs for tensor in graph.initializer),
            inputs=[_tensor(value) for value in model.graph.input if value.name not in weights],
            outputs=[_tensor(value) for value in model.graph.output],
            metadata={entry.key: entry.value for entry in model.metadata_props},
            providers=[provider for provider in ort.get_available_providers() if provider not in _REMOTE],
        )
    )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those in its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _name(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _tensor(value: Any) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return f"{value.name} {kind.removesuffix('_type') if kind else 'of unknown type'}"
    tensor = value.type.tensor_type
    dims = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type)}[{','.join(dims)}]"


if __name__ == "__main__":
    children.answer(run)
