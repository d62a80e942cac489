"""What in a graph lets a value of a request end the process, or keep it busy without an end.

- An integer Div or Mod: the smallest integer divided by -1 is a SIGFPE in ONNX Runtime 1.32, which ends the process.
- A Loop whose number of rounds isn't fixed: it may never end.
- A size that is taken from a value: ConstantOfShape, Range, Expand, Tile and others may ask for any amount of memory.

Only values matter that come from a request's inputs. What follows from shapes is bounded by the size of the request.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from turnout_server.devices import onnx_graph
from turnout_server.devices.onnx_graph import Graph, Node

#: TensorProto.DataType: the integers.
_INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})
#: Operators whose outputs follow from the shapes of their inputs, not from values.
_OF_SHAPES = ("Shape", "Size")
#: Operators whose first output is an integer whatever their inputs are.
_GIVE_INTEGERS = ("Shape", "Size", "ArgMax", "ArgMin", "NonZero")
#: By operator, the inputs whose values are sizes; none for all inputs.
_SIZES: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (),
    "Resize": (2, 3),
    "STFT": (1, 3),
    "Tile": (1,),
    "Upsample": (1,),
}
#: Operators of ONNX Runtime's own that generate until a value says stop.
_GENERATE = ("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch")


_TAKES_A_SIZE = "takes a size from a value of the request"


@dataclass(frozen=True)
class _Value:
    """What is known of a value: whether it comes from a request's values, and whether it is an integer."""

    given: bool = True
    integer: bool = False


def sizes_from_values(path: Path) -> tuple[str, ...]:
    """The hazards of an ONNX file that are sizes which come from a request's values, and not from its shapes."""
    return tuple(hazard for hazard in hazards(path) if hazard.endswith(_TAKES_A_SIZE))


def hazards(path: Path) -> tuple[str, ...]:
    """What a value of a request could do to the process that runs an ONNX file, for people; empty for nothing.

    Returns nothing for a file that can't be read, which can't be opened either.
    """
    return _hazards(path) or ()


@onnx_graph.once_per_file
def _hazards(model: onnx_graph.Model) -> tuple[str, ...]:
    found = list(_in(model.graph, {}))
    for (domain, name), function in model.functions.items():
        called = any(node.operator == name and node.domain == domain for node in onnx_graph.nodes_of(model.graph))
        found += _in(function, {}) if called else ()
    return tuple(dict.fromkeys(found))


def _in(graph: Graph, outer: dict[str, _Value]) -> Iterator[str]:
    """The hazards of a graph; names that it doesn't know are those of the graph around it, or come from a request."""
    known = dict(outer)
    known |= {name: _Value(given=False, integer=kind in _INTEGERS) for name, kind in graph.initializers.items()}
    known |= {name: _Value(given=True, integer=kind in _INTEGERS) for name, kind in graph.inputs.items()}
    for node in graph.nodes:
        values = [known.get(name, _Value()) if name else _Value(given=False) for name in node.inputs]
        yield from _of(node, values)
        for attribute in node.attributes.values():
            for inner in attribute.graphs:
                yield from _in(inner, known)
        made = _made_by(node, values)
        known |= {name: made for name in node.outputs if name}


def _of(node: Node, values: list[_Value]) -> Iterator[str]:
    """The hazards of one node, whose inputs have these values."""
    who = f"{node.operator} '{node.name or ', '.join(node.outputs)}'"
    if node.operator in ("Div", "Mod") and len(values) == 2 and values[1].given and all(v.integer for v in values):
        if not (node.operator == "Mod" and node.number("fmod")):
            yield f"{who} divides integers by a value of the request"
    elif node.operator == "Loop":
        if not node.inputs or not node.inputs[0] or values[0].given:
            yield f"{who} may have any number of rounds"
    elif node.operator in _GENERATE:
        yield f"{who} generates for as long as a value says"
    elif node.operator in _SIZES:
        places = _SIZES[node.operator] or range(len(values))
        if any(at < len(values) and values[at].given for at in places):
            yield f"{who} {_TAKES_A_SIZE}"


def _made_by(node: Node, values: list[_Value]) -> _Value:
    """What is known of a node's outputs."""
    inner = any(attribute.graphs for attribute in node.attributes.values())
    given = node.operator not in _OF_SHAPES and (inner or any(value.given for value in values))
    if node.operator in _GIVE_INTEGERS:
        return _Value(given, integer=True)
    if node.operator == "Cast":
        return _Value(given, integer=node.number("to") in _INTEGERS)
    if node.operator in ("Constant", "ConstantOfShape"):
        return _Value(given, integer=any(a.element_type in _INTEGERS or a.number for a in node.attributes.values()))
    data = values[1:2] if node.operator == "Where" else values[:1]
    return _Value(given, integer=inner or any(value.integer for value in data))
