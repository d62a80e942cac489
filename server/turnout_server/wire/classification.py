"""The classification extension: an output's n largest values as text instead of the tensor.

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
    """The n largest values of each row, the largest first.

    Args:
        output: (rows, ...) if `batched`, else any shape; all dimensions but the rows are flattened to one list of classes.
        n: the number of classes; all of them if there are fewer.

    Returns:
        `str` objects of shape (rows, n), or (n,) if not `batched`.

    Raises:
        InvalidRequest: the extension doesn't support this datatype.
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
