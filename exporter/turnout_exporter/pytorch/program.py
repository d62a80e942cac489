"""What an exported program says about its inputs: whether they are tensors, and which sizes it takes."""

from collections.abc import Mapping, Sequence

import sympy
from torch import SymInt, Tensor
from torch.export import ExportedProgram

from turnout_exporter.errors import SourceError
from turnout_exporter.spec.inputspec import InputSpec
from turnout_exporter.spec.points import BATCH, DEFAULT_MAX_BATCH_SIZE, Limits
from turnout_exporter.spec.sizes import LADDER

UNBOUNDED = 2**31  #: a size that is as good as none
_UNENFORCED = 2  #: torch.export writes this lowest size where any is taken


def check_flat(program: ExportedProgram) -> None:
    """Raises SourceError for an argument that isn't a tensor: requests have named tensors, and nothing else."""
    args, kwargs = program.example_inputs or ((), {})
    arguments = {f"number {number}": value for number, value in enumerate(args, 1)} | {
        repr(name): value for name, value in kwargs.items()
    }
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise SourceError(
                f"the program's argument {name} is a {type(value).__name__}, and only tensors can be served: export the "
                f"program from a module whose forward takes each tensor by itself"
            )


def size_limits(program: ExportedProgram, inputs: Sequence[InputSpec]) -> dict[str, Limits]:
    """The sizes that a program was exported for, by dimension, as far as it limits them."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    found: dict[str, Limits] = {}
    for spec in inputs:
        for dim, size in zip(spec.dims, values[spec.name].shape, strict=True):
            if isinstance(dim, str) and isinstance(size, SymInt) and isinstance(size.node.expr, sympy.Symbol):
                span = program.range_constraints.get(size.node.expr)
                if span is not None:
                    found[dim] = Limits(_lowest(span.lower), int(min(span.upper, UNBOUNDED)))
    return {dim: limit for dim, limit in found.items() if (limit.low, limit.high) != (1, UNBOUNDED)}


def _lowest(lower: sympy.Expr) -> int:
    return int(lower) if lower > _UNENFORCED else 1


def ranges_within(
    own: Mapping[str, Limits], ranges: Mapping[str, Limits], max_batch_size: int | None
) -> tuple[dict[str, Limits], int | None]:
    """The ranges and the largest batch within what a program takes, where the user doesn't state them.

    A wide range isn't stated, but left to the search, which ends where trying becomes expensive. A program that doesn't take
    one row can't be batched.

    Args:
        own: the limits of the program.
    """
    narrow = {dim: limit for dim, limit in own.items() if limit.high < max(LADDER[0], 4 * limit.low) and dim != BATCH}
    wanted = narrow | dict(ranges)
    batch = own.get(BATCH)
    if batch is None or BATCH in ranges:
        return wanted, max_batch_size
    if batch.low > 1:
        highest = min(batch.high, max(2 * batch.low, DEFAULT_MAX_BATCH_SIZE))
        return wanted | {BATCH: Limits(batch.low, highest)}, max_batch_size or 0
    if max_batch_size is None:
        return wanted, min(batch.high, DEFAULT_MAX_BATCH_SIZE)
    return wanted | ({BATCH: batch} if max_batch_size > batch.high else {}), max_batch_size
