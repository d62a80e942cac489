"""What to do with a published model: the command that serves it, and a client."""

from collections.abc import Sequence
from pathlib import Path

from turnout_exporter.spec.datatypes import BY_NAME
from turnout_exporter.spec.points import BATCH
from turnout_exporter.spec.signature import Signature, TensorSpec

_SIZE = 8  #: for a free dimension that isn't the batch


def next_steps(directory: Path, signature: Signature, precisions: Sequence[str] = ()) -> list[str]:
    """The lines to print for a version's folder, `<repository>/<model>/<version>`.

    Args:
        precisions: what requests may choose besides the model as it is.
    """
    repository, name = directory.parent.parent, directory.parent.name
    chosen = [f"  # infer(..., parameters={{'precision': '{precision}'}}) chooses that file" for precision in precisions]
    return [
        "Next:",
        f"  turnout-server --model-repository {repository}",
        "  # a client in Python, with tritonclient[grpc]:",
        *(f"  {line}" for line in client(name, signature)),
        *chosen,
    ]


def client(name: str, signature: Signature) -> list[str]:
    """A Python client that sends one request of ones."""
    lines = [
        "import numpy as np, tritonclient.grpc as grpc",
        "inputs = []",
        f"for name, datatype, array in [{', '.join(map(_argument, signature.inputs))}]:",
        "    inputs.append(grpc.InferInput(name, array.shape, datatype))",
        "    inputs[-1].set_data_from_numpy(array)",
        f'result = grpc.InferenceServerClient("127.0.0.1:8001").infer("{name}", inputs)',
        f'print(result.as_numpy("{signature.outputs[0].name}"))',
    ]
    return lines


def _argument(spec: TensorSpec) -> str:
    shape = [dim if isinstance(dim, int) else 1 if dim == BATCH else _SIZE for dim in spec.shape]
    datatype = BY_NAME[spec.datatype]
    filled = "zeros" if spec.kind == "padding" else "ones"  # a row of padding alone has no result
    array = f"np.full({shape}, b'', object)" if datatype.dtype.kind == "U" else f"np.{filled}({shape}, '{datatype.spelling}')"
    return f'("{spec.name}", "{spec.datatype}", {array})'
