"""Lets torchvision be imported where its compiled part can't be loaded.

The wheel of torchvision on the default package index is compiled for CUDA, and beside a CPU build of torch its import fails,
and with it that of timm and of transformers. Only the operators `nms` and `qnms` must be known for the import; no
classification model uses them. Called, they still fail.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache  # the operators exist as long as the library object does
def make_importable() -> torch.library.Library | None:
    """Declares the operators if torchvision is installed and its library can't be loaded."""
    found = find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return None
    libraries = [library for folder in found.submodule_search_locations for library in Path(folder).glob("_C*.so")]
    try:
        for library in libraries:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        declared = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            declared.define(schema)  # type: ignore[no-untyped-call]
        return declared
    return None
