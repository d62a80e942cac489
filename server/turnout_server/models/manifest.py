"""What the exporter says of a version in `model.json`: sizes and values for which it was proven, and tolerances of its files.

The format is that of exporter/turnout_exporter/model.schema.json. Only what the server holds requests and devices to is read;
a file that isn't as expected says nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from turnout_server.core.signatures import Signature, SizeLimit, TensorSpec

FILE = "model.json"
#: Values beyond their range are looked for in tensors of integers: an index beyond its table fails, or gives nonsense.
_INTEGERS = "iu"


@dataclass(frozen=True)
class Manifest:
    """The part of a `model.json` that the server uses.

    Attributes:
        shapes: the dimensions of each input by name, a name for one that is free.
        sizes: by a dimension's name, the (least, largest, step) that were verified.
        ranges: by an input's name, the (least value, end) that it may have.
        tolerances: by file, what outputs may differ by from those of golden.npz.
    """

    shapes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def limit(self, signature: Signature) -> Signature:
        """The signature with these sizes and values; the batch's size isn't one of them."""
        return replace(signature, inputs=tuple(self._limited(spec, signature) for spec in signature.inputs))

    def _limited(self, spec: TensorSpec, signature: Signature) -> TensorSpec:
        shape = self.shapes.get(spec.name, ())
        if len(shape) != len(spec.shape):
            return spec
        first = 1 if signature.max_batch_size else 0
        limits = tuple(
            SizeLimit(axis, shape[axis], *self.sizes[shape[axis]])
            for axis in range(first, len(shape))
            if spec.shape[axis] == -1 and shape[axis] in self.sizes
        )
        values = self.ranges.get(spec.name) if spec.datatype.dtype.kind in _INTEGERS else None
        return replace(spec, sizes=limits, values=values)


def read(directory: Path) -> Manifest:
    """The manifest of a version; an empty one if there is none."""
    try:
        path = directory / FILE
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        inputs = content.get("inputs", [])
        return Manifest(
            {str(tensor["name"]): tuple(tensor["shape"]) for tensor in inputs},
            {
                str(name): (int(limit["min"]), int(limit["max"]), int(limit["step"]))
                for name, limit in content.get("sizes", {}).items()
            },
            {
                str(tensor["name"]): (int(np.ceil(tensor["range"][0])), int(np.ceil(tensor["range"][1])))
                for tensor in inputs
                if "range" in tensor
            },
            {str(name): float(file["tolerance"]) for name, file in content.get("files", {}).items() if "tolerance" in file},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        return Manifest()
