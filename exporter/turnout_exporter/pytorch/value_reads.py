"""Where `forward` reads a value of an input into Python while torch's older exporter records a run.

The recording keeps the number, or the branch of the `if`, that this one run had. torch warns of such places, but of those that
read a size as well, and a wrong size shows in the comparison at other sizes. Here only the elements of inputs count.
"""

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from turnout_exporter.pytorch.places import own_place

#: What makes Python's numbers, texts and arrays of a tensor's elements.
_READS = {"__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose", "equal", "item", "numpy", "tolist"}
#: These take the shape of a tensor, and none of its elements.
_SIZES = {
    f"aten::{name}"
    for name in ("size", "len", "numel", "dim", "zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones")
}
_PARAMETERS = "prim::Param"  #: the recorded graph's inputs: the model's, then its weights and buffers


class ValueReads(TorchFunctionMode):
    """Notes the user's lines that read a value, as ` (model.py:12, if x.max() > 0:)`.

    Attributes:
        places: each of them once, in the order in which they ran.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.places: dict[str, None] = {}
        self._inputs = inputs

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _READS and torch._C._get_tracing_state():
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            place = own_place(traceback.extract_stack())
            if place and any(self._comes_from_an_input(tensor) for tensor in tensors):
                self.places[place] = None
        return func(*args, **(kwargs or {}))

    def _comes_from_an_input(self, tensor: Tensor) -> bool:
        """Whether the recorded operators that made a tensor begin at an element of an input of the model."""
        graph = torch._C._get_tracing_state().graph()
        inputs = {value.unique() for value, _ in zip(graph.inputs(), range(self._inputs), strict=False)}
        return any(origin in inputs for origin in _origins(torch._C._get_value_trace(tensor)))  # type: ignore[attr-defined]


def _origins(value: Any) -> Iterator[int]:
    """The numbers of the graph's inputs from whose elements a value of the graph was computed."""
    seen, waiting = set(), [value]
    while waiting:
        value = waiting.pop()
        number, node = value.unique(), value.node()
        if number in seen or node.kind() in _SIZES:
            continue
        seen.add(number)
        if node.kind() == _PARAMETERS:
            yield number
        else:
            waiting += node.inputs()
