"""The child process that finds sizes at which `forward` takes another branch, from the guards of torch.export.

torch.onnx keeps the branch that its example took, without a word. torch.export notes each comparison of a size that it made on
the way; where such a comparison comes out differently, the model is tried.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import sympy
import torch
from torch import SymInt, Tensor
from torch.export import Dim, ExportedProgram

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.jobs import GuardsJob, ModelJob
from turnout_exporter.pytorch.build import build
from turnout_exporter.pytorch.forward import Forward
from turnout_exporter.pytorch.subject import forward_of
from turnout_exporter.spec import reference
from turnout_exporter.spec.inputspec import InputSpec, parse_inputs
from turnout_exporter.spec.points import Limits, Sizes

_CHANGES_PER_GUARD = 3  #: the nearest ones; `size % 4 == 1` changes all the time
_SIZES_PER_DIM = 24  #: the most further sizes to try of one dimension, the nearest first
_SCANNED = 4096  #: the most sizes at which a guard is evaluated


def run(job_fields: Json, _: Channel) -> Json:
    """Does a `GuardsJob`; returns the further sizes to try by dimension, as `sizes`."""
    job = GuardsJob(**job_fields)
    inputs = parse_inputs(job.inputs)
    forward = forward_of(build(ModelJob(**job.model)), inputs, job.selected)
    base = reference.read(Path(job.reference))[0]
    tensors = tuple(torch.from_numpy(base.inputs[name].copy()) for name in forward.names)
    program = _trace(forward, inputs, tensors)
    if program is None:
        return {"sizes": {}}
    limits = {dim: Limits(*limit) for dim, limit in job.limits.items()}
    return {"sizes": breakpoints(_guards(program), _symbols(program, inputs), base.point.sizes, limits)}


def breakpoints(
    guards: Iterable[sympy.Basic], symbols: dict[sympy.Symbol, str], base: Sizes, limits: dict[str, Limits]
) -> dict[str, list[int]]:
    """The sizes around each change of a guard's truth: the last one before it, the first one after it, and the next.

    Args:
        guards: conditions on symbols, true at the base.
        symbols: the dimension of each symbol.
        base: the sizes of the other dimensions while one changes.
        limits: the sizes that may be tried.
    """
    found: dict[str, list[int]] = {}
    for dim, limit in limits.items():
        changes: set[int] = set()
        for guard in guards:
            if dim in {symbols.get(symbol) for symbol in guard.free_symbols}:
                changes.update(_nearest(_changes(guard, symbols, base, dim, limit), base[dim], _CHANGES_PER_GUARD))
        around = {limit.clamp(size + step) for size in changes for step in (-limit.step, 0, limit.step)}
        if around:
            found[dim] = sorted(_nearest(around, base[dim], _SIZES_PER_DIM))
    return found


def _nearest(sizes: Iterable[int], size: int, count: int) -> list[int]:
    return sorted(sizes, key=lambda other: abs(other - size))[:count]


def _changes(guard: sympy.Basic, symbols: dict[sympy.Symbol, str], base: Sizes, dim: str, limit: Limits) -> Iterator[int]:
    """The sizes at which a guard is true and wasn't at the size before, or the other way round."""
    others = {symbol: sympy.Integer(base[name]) for symbol, name in symbols.items() if name != dim}
    partial = guard.xreplace(others)
    own = [symbol for symbol, name in symbols.items() if name == dim]
    before: sympy.Basic | None = None
    for size in range(limit.low, min(limit.high, limit.low + _SCANNED) + 1, limit.step):
        truth = partial.xreplace(dict.fromkeys(own, sympy.Integer(size)))
        if truth not in (sympy.true, sympy.false):
            return  # it depends on something else, such as a value
        if before is not None and truth != before:
            yield size
        before = truth


def _trace(forward: Forward, inputs: list[InputSpec], tensors: tuple[Tensor, ...]) -> ExportedProgram | None:
    """The exported program; strictly traced if that works, because it also sees `len(x)`. None if it can't be exported."""
    by_name = {spec.name: spec for spec in inputs}
    free = tuple(
        {axis: Dim.AUTO for axis, dim in enumerate(by_name[name].dims) if isinstance(dim, str)} for name in forward.names
    )
    for strict in (True, False):
        try:
            return torch.export.export(forward, tensors, dynamic_shapes={"tensors": free}, strict=strict)
        except Exception:  # torch raises anything; what it can't export has no guards to read
            continue
    return None


def _placeholders(program: ExportedProgram) -> list[Tensor]:
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _guards(program: ExportedProgram) -> list[sympy.Basic]:
    """The conditions on sizes that the trace relied on."""
    for value in _placeholders(program):
        for size in value.shape:
            if isinstance(size, SymInt):
                guards = size.node.shape_env.guards
                return list(dict.fromkeys(guard.expr for guard in guards))
    return []


def _symbols(program: ExportedProgram, inputs: list[InputSpec]) -> dict[sympy.Symbol, str]:
    """The dimension that each symbol of the program stands for."""
    found: dict[sympy.Symbol, str] = {}
    for spec, value in zip(inputs, _placeholders(program), strict=True):
        for dim, size in zip(spec.dims, value.shape, strict=True):
            if isinstance(dim, str) and isinstance(size, SymInt) and isinstance(size.node.expr, sympy.Symbol):
                found.setdefault(size.node.expr, dim)
    return found


if __name__ == "__main__":
    children.answer(run)
