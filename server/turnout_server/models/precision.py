"""What a model file computes with: `fp32`, `fp16`, `int8`."""

import json
from pathlib import Path


def precision_of(directory: Path, file: str) -> str:
    """The precision of one of a version's files: what `model.json` says, else its name, else fp32.

    Args:
        directory: the version's.
        file: `model.onnx`, `model.fp16.onnx`.
    """
    return _stated(directory / "model.json", file) or _named(file) or "fp32"


def _stated(manifest: Path, file: str) -> str:
    """What a manifest says of a file; nothing where there is no manifest, or none that can be read."""
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))["files"][file]["precision"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""


def _named(file: str) -> str:
    parts = file.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "model" and parts[2] == "onnx" else ""
