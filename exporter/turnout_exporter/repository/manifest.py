"""`model.json`: where a published version comes from, its inputs and outputs, and how it was verified.

`model.schema.json` in the package is its JSON Schema.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from turnout_exporter.compare import Comparison
from turnout_exporter.spec.points import Limits, Point
from turnout_exporter.spec.signature import Signature, TensorSpec
from turnout_exporter.spec.sources import Kind, Source

SCHEMA_VERSION = 1
MANIFEST_FILE = "model.json"
_LEAST_TOLERANCE = 0.01  #: GPUs multiply float32 with fewer bits
_TOLERANCE_MARGIN = 2.0  #: kernels of another processor round differently


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file of the version.

    Attributes:
        path: the file; weights over 1.5 GB are in another one beside it.
        comparisons: how it was verified.
        metric: what `--metric` says about it.
        speedup: how many times as fast as the first file it was on this machine; None for the first file.
    """

    path: Path
    precision: str
    comparisons: Sequence[Comparison]
    metric: Mapping[str, float] = field(default_factory=dict)
    speedup: float | None = None

    @property
    def paths(self) -> list[Path]:
        """The file and its external data."""
        return sorted(self.path.parent.glob(f"{self.path.name}*"))

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    @property
    def max_rel_error(self) -> float:
        return max(comparison.max_rel_error for comparison in self.comparisons)

    @property
    def tolerance(self) -> float:
        """What a device may differ by from the reference, as a share of an output's largest value."""
        return float(f"{max(_LEAST_TOLERANCE, _TOLERANCE_MARGIN * self.max_rel_error):.2g}")


def describe(
    *,
    name: str,
    version: int,
    source: Mapping[str, str | None],
    versions: Mapping[str, str],
    exporter: str,
    opset: int,
    signature: Signature,
    limits: Mapping[str, Limits],
    files: Sequence[ModelFile],
    task: str,
    preprocessing: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `model.json`. The files of the model must exist, because they are hashed."""
    optional = {"task": task, "preprocessing": dict(preprocessing)}
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "created": created(),
        "source": dict(source),
        "versions": dict(versions),
        "exporter": exporter,
        "opset": opset,
        **{key: value for key, value in optional.items() if value},
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        "batch_axis": signature.batch_axis,
        "sizes": {dim: {"min": limit.low, "max": limit.high, "step": limit.step} for dim, limit in limits.items()},
        "files": {path.name: _file(file, path) for file in files for path in file.paths},
        "verification": [
            {"point": Point.parse(label).sizes, **_worst([c for c in files[0].comparisons if c.point == label])}
            for label in dict.fromkeys(comparison.point for comparison in files[0].comparisons)
        ],
    }


def embedded(
    *,
    source: Mapping[str, str | None],
    versions: Mapping[str, str],
    labels: Sequence[str],
    preprocessing: Mapping[str, Any],
    limits: Mapping[str, Limits],
    task: str,
) -> dict[str, str]:
    """The metadata inside an ONNX file, for whoever finds it without `model.json`.

    No date: the same model gives the same file again, so what was measured of one holds for the other.
    """
    texts = {f"turnout.source.{key}": value or "" for key, value in source.items()}
    texts |= {
        "turnout.versions": json.dumps(dict(versions)),
        "turnout.task": task,
        "turnout.labels": json.dumps(list(labels)) if labels else "",
        "turnout.preprocessing": json.dumps(dict(preprocessing)) if preprocessing else "",
        "turnout.sizes": " ".join(f"{dim}={limit}" for dim, limit in limits.items()),
    }
    return {key: text for key, text in texts.items() if text}


def describe_source(source: Source, file: str | None, weights: Path | None) -> dict[str, str | None]:
    """The origin of a model: the reference, the commit of the file that defines it, and the hash of its weights."""
    if source.kind in (Kind.ONNX, Kind.PROGRAM):
        weights = Path(source.place)
    return {
        "reference": source.public,
        "git_commit": git_commit(Path(file)) if file else None,
        "weights_sha256": sha256(weights) if weights else None,
    }


def turnout_version() -> dict[str, str]:
    """The version of this package as an entry of `versions`."""
    return {"turnout": installed_version("turnout")}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
    optional = {"range": list(spec.bounds or ()), "kind": spec.kind, "limit": spec.limit, "labels": list(spec.labels)}
    return entry | {key: value for key, value in optional.items() if value}


def _file(file: ModelFile, path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        "precision": file.precision,
        **_worst(file.comparisons),
        "tolerance": file.tolerance,
    }
    optional = {"metric": dict(file.metric), "speedup_vs_fp32": file.speedup and round(file.speedup, 3)}
    return entry | {key: value for key, value in optional.items() if value}


def _worst(comparisons: Sequence[Comparison]) -> dict[str, float]:
    return {
        "max_abs_error": max(comparison.max_abs_error for comparison in comparisons),
        "max_rel_error": max(comparison.max_rel_error for comparison in comparisons),
    }


def created() -> str:
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
