"""What an ONNX file says about its inputs and outputs that ONNX Runtime keeps to itself.

ONNX Runtime shows a scalar and a tensor of unknown rank alike, with no dimensions, and either takes any shape. So the file
itself is read: only the descriptions of its inputs and outputs, without the nodes and the weights between them.
Field numbers: onnx/onnx.proto.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

from turnout_server.core.datatypes import of_element_type
from turnout_server.core.protobuf import Span, fields
from turnout_server.core.signatures import TensorSpec

#: Fields of ModelProto, GraphProto, ValueInfoProto, TypeProto, TypeProto.Tensor, TensorShapeProto and its Dimension.
_IR_VERSION, _GRAPH = 1, 7
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
_NAME, _TYPE = 1, 2
_TENSOR_TYPE = 1
_ELEMENT_TYPE, _SHAPE = 1, 2
_DIMENSION, _SIZE = 1, 1
_TENSOR_NAME = 8
#: From this version of the format on, an initializer that is also an input is the input's default.
_DEFAULTS_SINCE = 4


@dataclass(frozen=True)
class GraphInputs:
    """What a graph says about its inputs and outputs.

    Attributes:
        unranked_inputs, unranked_outputs: the names of those whose number of dimensions it doesn't state.
        defaults: the inputs that have a value of their own, which a request may replace.
    """

    unranked_inputs: frozenset[str] = frozenset()
    unranked_outputs: frozenset[str] = frozenset()
    defaults: tuple[TensorSpec, ...] = ()


def read(path: Path) -> GraphInputs:
    """What an ONNX file says; nothing if it isn't one."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _of_model(content, (0, len(content)))
    except (OSError, ValueError, IndexError):  # ValueError: it is empty, or its bytes aren't a model's
        return GraphInputs()


def _of_model(data: mmap.mmap, span: Span) -> GraphInputs:
    ir_version, graphs = 0, []
    for number, value in fields(data, span):
        if number == _IR_VERSION and isinstance(value, int):
            ir_version = value
        elif number == _GRAPH and isinstance(value, tuple):
            graphs.append(value)
    described = [_described(data, graph) for graph in graphs]
    if not described:
        return GraphInputs()
    inputs, outputs, initializers = described[-1]
    with_default = inputs if ir_version >= _DEFAULTS_SINCE else []
    return GraphInputs(
        frozenset(name for name, _, shape in inputs if shape is None and name not in initializers),
        frozenset(name for name, _, shape in outputs if shape is None),
        tuple(
            TensorSpec(name, datatype, shape)
            for name, element_type, shape in with_default
            if name in initializers and shape is not None and (datatype := of_element_type(element_type)) is not None
        ),
    )


_Described = list[tuple[str, int, tuple[int, ...] | None]]


def _described(data: mmap.mmap, graph: Span) -> tuple[_Described, _Described, set[str]]:
    """The inputs and the outputs of a graph, and the names of its initializers."""
    inputs: _Described = []
    outputs: _Described = []
    initializers: set[str] = set()
    for number, value in fields(data, graph):
        if not isinstance(value, tuple):
            continue
        if number == _INITIALIZER:
            initializers.add(_text(data, value, _TENSOR_NAME))
        elif number in (_INPUT, _OUTPUT):
            (inputs if number == _INPUT else outputs).append(_value_info(data, value))
    return inputs, outputs, initializers


def _value_info(data: mmap.mmap, span: Span) -> tuple[str, int, tuple[int, ...] | None]:
    """The name, element type and shape of an input or output; -1 for a free dimension, None for an unknown rank."""
    tensor = _inner(data, _inner(data, span, _TYPE), _TENSOR_TYPE)
    element_type, shape = 0, None
    for number, value in fields(data, tensor) if tensor else ():
        if number == _ELEMENT_TYPE and isinstance(value, int):
            element_type = value
        elif number == _SHAPE and isinstance(value, tuple):
            shape = tuple(_size(data, inner) for field, inner in fields(data, value) if field == _DIMENSION)
    return _text(data, span, _NAME), element_type, shape if tensor else ()


def _size(data: mmap.mmap, dimension: int | Span) -> int:
    if isinstance(dimension, tuple):
        for number, value in fields(data, dimension):
            if number == _SIZE and isinstance(value, int):
                return value
    return -1


def _inner(data: mmap.mmap, span: Span | None, wanted: int) -> Span | None:
    """The message in a field of a message; None if there is none."""
    found = [value for number, value in fields(data, span) if number == wanted] if span else []
    return found[-1] if found and isinstance(found[-1], tuple) else None


def _text(data: mmap.mmap, span: Span, wanted: int) -> str:
    inner = _inner(data, span, wanted)
    return data[slice(*inner)].decode(errors="replace") if inner else ""
