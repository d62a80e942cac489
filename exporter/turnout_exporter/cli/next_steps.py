"""What to do with a published model: the command that serves it, and a client."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from turnout_exporter.spec.datatypes import BY_NAME
from turnout_exporter.spec.points import BATCH, Limits
from turnout_exporter.spec.signature import Signature, TensorSpec

_SIZE = 8  #: for a free dimension that isn't the batch, if it may have that
_ANY = Limits(1, _SIZE)


def next_steps(
    directory: Path, signature: Signature, limits: Mapping[str, Limits], precisions: Sequence[str] = ()
) -> list[str]:
    """The lines to print for a version's folder, `<repository>/<model>/<version>`.

    Args:
        limits: the sizes that the server takes.
        precisions: what requests may choose besides the model as it is.
    """
    repository, name = directory.parent.parent, directory.parent.name
    chosen = [f"  # infer(..., parameters={{'precision': '{precision}'}}) chooses that file" for precision in precisions]
    return [
        "Next:",
        f"  turnout-server --model-repository {repository}",
        "  # a client in Python, with tritonclient[grpc]:",
        *(f"  {line}" for line in client(name, signature, limits)),
        *chosen,
    ]


def client(name: str, signature: Signature, limits: Mapping[str, Limits]) -> list[str]:
    """A Python client that sends one request: of ones, or of the lowest values where an input doesn't take ones."""
    sizes = {
        dim: limits.get(dim, _ANY).clamp(1 if dim == BATCH else _SIZE)
        for spec in signature.inputs
        for dim in spec.shape
        if isinstance(dim, str)
    }
    arguments = ", ".join(_argument(spec, sizes) for spec in signature.inputs)
    lines = [
        "import numpy as np, tritonclient.grpc as grpc",
        "inputs = []",
        f"for name, datatype, array in [{arguments}]:",
        "    inputs.append(grpc.InferInput(name, array.shape, datatype))",
        "    inputs[-1].set_data_from_numpy(array)",
        f'result = grpc.InferenceServerClient("127.0.0.1:8001").infer("{name}", inputs)',
        f'print(result.as_numpy("{signature.outputs[0].name}"))',
    ]
    return lines


def _argument(spec: TensorSpec, sizes: Mapping[str, int]) -> str:
    shape = [dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape]
    datatype = BY_NAME[spec.datatype]
    if datatype.dtype.kind == "U":
        array = f"np.full({shape}, b'', object)"
    elif (value := _value(spec)) in (0, 1):
        array = f"np.{'ones' if value else 'zeros'}({shape}, '{datatype.spelling}')"
    else:
        array = f"np.full({shape}, {value}, '{datatype.spelling}')"
    return f'("{spec.name}", "{spec.datatype}", {array})'


def _value(spec: TensorSpec) -> float:
    """A value that the input takes: 1, if possible."""
    is_index = bool(spec.limit) and not spec.limit.startswith("<=")
    if spec.kind == "padding" or is_index:
        return 0  # a row of padding alone has no result, and a size may be 1
    low, high = spec.bounds or (1, 2)
    return 1 if low <= 1 < high else low
