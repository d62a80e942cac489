"""`model.json`: where a published version comes from, what it takes and gives, and how it was proven.

`model.schema.json` beside this file is its definition.
"""

import hashlib
import os
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from turnout_exporter.compare import Comparison
from turnout_exporter.points import Point
from turnout_exporter.signature import Signature, TensorSpec
from turnout_exporter.sources import Source

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
    """The content of `model.json`; every file of the model is there already."""
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
    """Where a model comes from: the factory, the commit of the file that defines it, and the weights."""
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
    """Now, or SOURCE_DATE_EPOCH where builds must be reproducible, as ISO 8601 in UTC."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.isoformat(timespec="seconds")


def sha256(file: Path) -> str:
    """A file's hash in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def git_commit(file: Path) -> str | None:
    """The commit that a source file is at, with `-dirty` where something is uncommitted; None outside of a repository."""
    command = ["git", "-C", str(file.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return None
    return found.stdout.strip() or None
