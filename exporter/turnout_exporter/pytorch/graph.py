"""Corrections of a graph that torch exported, before it is saved."""

import onnx_ir
import onnx_ir.passes.common as onnx_passes
from onnx_ir.traversal import RecursiveGraphIterator

from turnout_exporter.spec.signature import TensorSpec


def strip_metadata(model: onnx_ir.Model) -> None:
    """Removes torch's notes on every node: stack traces with the paths and lines of this machine's files."""
    onnx_passes.ClearMetadataAndDocStringPass()(model)
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in RecursiveGraphIterator(model.graph) for value in node.outputs]
    for value in values:
        value.metadata_props.clear()


def keep_outputs(model: onnx_ir.Model, count: int) -> None:
    """Keeps the first outputs, and what they are computed from."""
    del model.graph.outputs[count:]
    onnx_passes.RemoveUnusedNodesPass()(model)


def make_names_unique(model: onnx_ir.Model) -> None:
    """Renames inner values and weights that are called like an input, an output or each other.

    torch 2.13 gives the outputs their names at the end, when `mean` may be the name of an inner operator's value already.
    """
    onnx_passes.NameFixPass()(model)


def correct_shapes(model: onnx_ir.Model, outputs: list[TensorSpec]) -> None:
    """Declares each output with its measured shape, and removes the shapes of inner values, which ONNX Runtime infers.

    torch 2.13 declares a free sequence length behind an LSTM with the number that the example had.
    """
    for node in RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None
    for value, spec in zip(model.graph.outputs, outputs, strict=True):
        value.shape = onnx_ir.Shape([None if dim == -1 else dim for dim in spec.shape])
