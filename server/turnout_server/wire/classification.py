"""The classification extension: the n largest values of an output as text, instead of the numbers.

Format `<value>:<index>[:<label>]`, floats with six decimals: Open Inference Protocol, "Classification"; Triton
src/classification.cc.
"""

import math
from collections.abc import Sequence

import numpy as np

from turnout_server.core.datatypes import of_dtype
from turnout_server.core.errors import InvalidRequest

_UNSUPPORTED = ("FP16", "BF16", "BOOL", "BYTES")


def classify(output: np.ndarray, n: int, labels: Sequence[str], *, batched: bool) -> np.ndarray:
    """The n largest of each row, largest first.

    Args:
        output: (rows, ...) if `batched`, else any shape; what isn't a row counts as one flat list of classes.
        n: how many; more than there are means all.

    Returns:
        Text of shape (rows, n), or (n,) if not `batched`.

    Raises:
        InvalidRequest: values of this datatype can't be classified.
    """
    name = of_dtype(output.dtype).name
    if name in _UNSUPPORTED:
        raise InvalidRequest(f"class result not available for output of datatype {name}")
    rows = output.reshape((len(output), math.prod(output.shape[1:])) if batched else (1, output.size))
    n = min(n, rows.shape[1])
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :n]
    text = np.empty(best.shape, np.object_)
    for row, classes in enumerate(best):
        text[row] = [_text(rows[row, index], int(index), labels) for index in classes]
    return text if batched else text[0]


def _text(value: np.generic, index: int, labels: Sequence[str]) -> str:
    number = f"{value:f}" if value.dtype.kind == "f" else str(value)
    return f"{number}:{index}:{labels[index]}" if index < len(labels) else f"{number}:{index}"
