"""A PyTorch model as the examination sees it; what the child processes with PyTorch have in common."""

from collections.abc import Sequence
from typing import Any

from torch import SymInt
from torch.export import ExportedProgram

from turnout_exporter.errors import SourceError
from turnout_exporter.examination import Subject
from turnout_exporter.importing import load_draw
from turnout_exporter.pytorch.build import Built, fingerprint
from turnout_exporter.pytorch.first_values import FirstValues
from turnout_exporter.pytorch.forward import Forward, positional_inputs
from turnout_exporter.spec.datatypes import BY_SPELLING
from turnout_exporter.spec.inputspec import InputSpec
from turnout_exporter.spec.points import BATCH
from turnout_exporter.spec.reference import Arrays
from turnout_exporter.spec.sources import Function


def forward_of(built: Built, inputs: Sequence[InputSpec], selected: Sequence[str] | None) -> Forward:
    """The model with its inputs and the outputs that are selected.

    Raises:
        SourceError: it doesn't take these inputs.
    """
    names = [spec.name for spec in inputs]
    if built.program is None:
        return Forward(built.model, names, positional_inputs(built.model, inputs), selected)
    own = list(built.program.graph_signature.user_inputs)
    if sorted(names) != sorted(own):
        raise SourceError(f"the program was exported with the inputs {', '.join(map(str, own))}, not {', '.join(names)}")
    args, _ = built.program.example_inputs or ((), {})
    return Forward(built.model, own, len(args), selected)


def subject_of(
    forward: Forward,
    first_values: FirstValues,
    inputs: list[InputSpec],
    samples: str | None,
    output_names: Sequence[str] | None = None,
) -> Subject:
    """The model for the examination; each run begins with the same weights and buffers.

    Args:
        first_values: those of the model.
        samples: the text of `--samples`.
        output_names: the text of `--output-names`.
    """
    draw = load_draw(Function.parse(samples, "--samples") if samples else None)

    def run(arrays: Arrays) -> Arrays:
        with first_values.restored():
            return forward.run(arrays, output_names)

    return Subject(run, inputs, draw)


def check_same(built: Built, expected: int) -> None:
    """Raises SourceError unless the weights are those of an earlier child process."""
    if fingerprint(built.model) != expected:
        raise SourceError(
            "the model has other weights each time it is made, so it can't be verified: load --weights, or seed its generator "
            "in the function that makes it"
        )


def program_inputs(program: ExportedProgram) -> list[str]:
    """The `--input` texts of an exported program, without ranges. The names of its dimensions are lost; axis 0 is the batch."""
    names: dict[str, str] = {}
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return [_input_text(str(name), values[name], names) for name in program.graph_signature.user_inputs]


def _input_text(name: str, value: Any, names: dict[str, str]) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in BY_SPELLING:
        raise SourceError(f"the program's input {name!r} is {dtype}, which can't be served")
    dims = []
    for axis, size in enumerate(value.shape):
        if not isinstance(size, SymInt):
            dims.append(str(int(size)))
            continue
        fresh = BATCH if axis == 0 and BATCH not in names.values() else f"dim_{len(names)}"
        dims.append(names.setdefault(str(size), fresh))
    return f"{name}={dtype}[{','.join(dims)}]"
