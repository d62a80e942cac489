"""The structure of an ONNX file, read without loading its weights: nodes, and what values are called and made of.

Files may have gigabytes; their tensors are skipped. Field numbers are those of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import mmap
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from turnout_server.core.protobuf import fields

T = TypeVar("T")

#: Graphs in graphs that a file may have.
MAX_DEPTH = 32

#: Element types of weights by precision, and operators that only quantized models have (onnx.proto and the ONNX operators).
_PRECISIONS = {1: "fp32", 10: "fp16", 16: "bf16"}
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


class NotOnnx(ValueError):
    """The file isn't what it should be; ONNX Runtime says it better."""


@dataclass(frozen=True)
class Attribute:
    """A node's attribute, as far as it matters here.

    Attributes:
        number: its integer; 0 for others.
        element_type: of a tensor; 0 for others.
        external: the file that a tensor's values are in; empty if they are in the model's.
        graphs: the graphs in it.
    """

    number: int = 0
    element_type: int = 0
    external: str = ""
    graphs: tuple["Graph", ...] = ()


@dataclass(frozen=True)
class Node:
    """A node: its operator, and the names of its inputs and outputs, empty for those left out."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def number(self, attribute: str) -> int:
        """An integer attribute; 0 if it isn't set."""
        return self.attributes[attribute].number if attribute in self.attributes else 0


@dataclass
class Graph:
    """A graph.

    Attributes:
        nodes: in the order in which they run.
        inputs, initializers: element types by name (TensorProto.DataType); 0 if it isn't stated.
        external: the files that initializers are in, where they aren't in the model's.
    """

    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    initializers: dict[str, int] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)


class Weights(NamedTuple):
    """What is known of a model's weights without loading them.

    Attributes:
        precision: what most of them are made of, `int8` if the model is quantized; empty if it has none that would tell.
        files: those that tensors are in besides the model's own, relative to its directory.
    """

    precision: str
    files: frozenset[str]


@dataclass
class Model:
    """A model's main graph, and the nodes of its functions by (domain, name)."""

    graph: Graph
    functions: dict[tuple[str, str], Graph]

    def weights(self) -> Weights:
        """What is known of its weights."""
        graphs = (self.graph, *self.functions.values())
        return Weights(self._precision(), frozenset(name for graph in graphs for name in _external_files(graph)))

    def _precision(self) -> str:
        nodes = [node for graph in (self.graph, *self.functions.values()) for node in nodes_of(graph)]
        if any(node.operator in _QUANTIZED or node.operator.startswith("QLinear") for node in nodes):
            return "int8"
        constants = [node.attributes["value"].element_type for node in nodes if "value" in node.attributes]
        for types in ([*self.graph.initializers.values(), *constants], list(self.graph.inputs.values())):
            floats = Counter(_PRECISIONS[each] for each in types if each in _PRECISIONS)
            if floats:
                return floats.most_common(1)[0][0]
        return ""


def read(path: Path) -> Model:
    """The structure of an ONNX file.

    Raises:
        NotOnnx: it isn't an ONNX file.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # not closed here: an error keeps views of it
    try:
        return _model(memoryview(content))
    except (IndexError, ValueError) as error:
        raise NotOnnx(f"{path.name} is no ONNX file") from error


def once_per_file(summarise: Callable[[Model], T]) -> Callable[[Path], T | None]:
    """A function of an ONNX file, which reads it once for as long as it doesn't change; None for what can't be read."""

    @lru_cache(maxsize=256)
    def summary_of(path: Path, modified_ns: int, size: int) -> T:
        return summarise(read(path))

    def look(path: Path) -> T | None:
        try:
            found = path.stat()
            return summary_of(path, found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None
        except (OSError, ValueError):  # NotOnnx, or an empty file
            return None

    return look


#: What is known of a file's weights.
weights_of = once_per_file(Model.weights)


def nodes_of(graph: Graph) -> Iterator[Node]:
    """Every node of a graph and of the graphs in it."""
    for node in graph.nodes:
        yield node
        for attribute in node.attributes.values():
            for inner in attribute.graphs:
                yield from nodes_of(inner)


def _external_files(graph: Graph) -> Iterator[str]:
    yield from graph.external
    for node in graph.nodes:
        for attribute in node.attributes.values():
            if attribute.external:
                yield attribute.external
            for inner in attribute.graphs:
                yield from _external_files(inner)


def _model(view: memoryview) -> Model:
    model = Model(Graph(), {})
    for number, value in _fields(view):
        if number == 7 and isinstance(value, memoryview):
            model.graph = _graph(value, 0)
        elif number == 25 and isinstance(value, memoryview):
            domain, name, nodes = "", "", []
            for inner, part in _fields(value):
                if inner == 1:
                    name = _text(part)
                elif inner == 10:
                    domain = _text(part)
                elif inner == 7 and isinstance(part, memoryview):
                    nodes.append(_node(part, 0))
            model.functions[domain, name] = Graph(nodes)
    return model


def _graph(view: memoryview, depth: int) -> Graph:
    if depth > MAX_DEPTH:
        raise NotOnnx("graphs in graphs")
    graph = Graph()
    for number, value in _fields(view):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            graph.nodes.append(_node(value, depth))
        elif number == 5:
            name, element_type, external = _tensor(value)
            graph.initializers[name] = element_type
            if external:
                graph.external.add(external)
        elif number == 11:
            name, element_type = _value_info(value)
            graph.inputs[name] = element_type
    return graph


def _node(view: memoryview, depth: int) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    attributes: dict[str, Attribute] = {}
    for number, value in _fields(view):
        if number in texts:
            texts[number].append(_text(value))
        elif number == 5 and isinstance(value, memoryview):
            name, attribute = _attribute(value, depth)
            attributes[name] = attribute
    name, operator, domain = ((texts[number] or [""])[-1] for number in (3, 4, 7))
    return Node(operator, domain, name, tuple(texts[1]), tuple(texts[2]), attributes)


def _attribute(view: memoryview, depth: int) -> tuple[str, Attribute]:
    name, number, element_type, external, graphs = "", 0, 0, "", []
    for field_number, value in _fields(view):
        if field_number == 1:
            name = _text(value)
        elif field_number == 3 and isinstance(value, int):
            number = value
        elif field_number == 5 and isinstance(value, memoryview):
            _, element_type, external = _tensor(value)
        elif field_number in (6, 11) and isinstance(value, memoryview):
            graphs.append(_graph(value, depth + 1))
    return name, Attribute(number, element_type, external, tuple(graphs))


def _tensor(view: memoryview) -> tuple[str, int, str]:
    """Name, element type, and the file that the values are in; empty if they are here."""
    name, element_type, external = "", 0, ""
    for number, value in _fields(view):
        if number == 2 and isinstance(value, int):
            element_type = value
        elif number == 8:
            name = _text(value)
        elif number == 13 and isinstance(value, memoryview):
            entry = {inner: _text(part) for inner, part in _fields(value) if inner in (1, 2)}
            external = entry.get(2, "") if entry.get(1) == "location" else external
    return name, element_type, external


def _value_info(view: memoryview) -> tuple[str, int]:
    name, element_type = "", 0
    for number, value in _fields(view):
        if number == 1:
            name = _text(value)
        elif number == 2 and isinstance(value, memoryview):
            element_type = _element_type(value)
    return name, element_type


def _element_type(type_: memoryview) -> int:
    for number, value in _fields(type_):
        if number == 1 and isinstance(value, memoryview):  # tensor_type
            return next((each for inner, each in _fields(value) if inner == 1 and isinstance(each, int)), 0)
    return 0


def _text(value: memoryview | int) -> str:
    if isinstance(value, int):
        raise NotOnnx("a number where a name should be")
    return bytes(value).decode()


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message: (number, value)."""
    for number, value in fields(view, (0, len(view))):
        yield number, value if isinstance(value, int) else view[slice(*value)]
