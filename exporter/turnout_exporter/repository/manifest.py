"""`model.json`: where a published version comes from, its inputs and outputs, and how it was verified.

`model.schema.json` beside this file is its JSON Schema.
"""

import hashlib
import os
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from turnout_exporter.compare import Comparison
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.signature import Signature, TensorSpec
from turnout_exporter.spec.sources import Source

SCHEMA_VERSION = 1
MANIFEST_FILE = "model.json"


def describe(
    *,
    name: str,
    version: int,
    source: dict[str, str | None],
    versions: dict[str, str],
    opset: int,
    signature: Signature,
    files: list[Path],
    precision: str,
    comparisons: list[Comparison],
) -> dict[str, Any]:
    """The content of `model.json`. The files of the model must exist, because they are hashed."""
    errors = _worst(comparisons)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "created": _created(),
        "source": source,
        "versions": {"turnout": installed_version("turnout"), **versions},
        "exporter": "dynamo",
        "opset": opset,
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        "batch_axis": signature.batch_axis,
        "files": {
            file.name: {"sha256": sha256(file), "bytes": file.stat().st_size, "precision": precision, **errors}
            for file in files
        },
        "verification": [
            {"point": Point.parse(label).sizes, **_worst([c for c in comparisons if c.point == label])}
            for label in dict.fromkeys(comparison.point for comparison in comparisons)
        ],
    }


def source(reference: Source, file: str | None, weights: Path | None) -> dict[str, str | None]:
    """The origin of a model: the factory, the commit of the file that defines it, and the hash of the weights."""
    return {
        "reference": reference.public,
        "git_commit": git_commit(Path(file)) if file else None,
        "weights_sha256": sha256(weights) if weights else None,
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
    if spec.bounds:
        entry["range"] = list(spec.bounds)
    if spec.labels:
        entry["labels"] = list(spec.labels)
    return entry


def _worst(comparisons: list[Comparison]) -> dict[str, float]:
    return {
        "max_abs_error": max(comparison.max_abs_error for comparison in comparisons),
        "max_rel_error": max(comparison.max_rel_error for comparison in comparisons),
    }


def _created() -> str:
    """The current time, or SOURCE_DATE_EPOCH if it is set, as ISO 8601 in UTC."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.isoformat(timespec="seconds")


def sha256(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def git_commit(file: Path) -> str | None:
    """The commit of the repository of a source file, with `-dirty` for uncommitted changes; None outside of a repository."""
    command = ["git", "-C", str(file.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git isn't installed
        return None
    return found.stdout.strip() or None
