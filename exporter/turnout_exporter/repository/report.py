"""The verification report: `verification.json` for programs, `verification.md` for readers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from turnout_exporter.compare import Comparison
from turnout_exporter.repository.manifest import ModelFile
from turnout_exporter.spec.points import Limits
from turnout_exporter.spec.signature import Signature

REPORT_JSON = "verification.json"
REPORT_MARKDOWN = "verification.md"


@dataclass(frozen=True)
class Report:
    """How a version was verified.

    Attributes:
        title: the model and its version.
        exporter: what wrote the first file.
        failures: why other exporters didn't, by their names.
        notes: what the user was told.
        left_out: why variants weren't published, by their names.
        methods: how the published variants were made, by their files' names.
    """

    title: str
    source: str
    exporter: str
    versions: Mapping[str, str]
    signature: Signature
    limits: Mapping[str, Limits]
    files: Sequence[ModelFile]
    failures: Mapping[str, str]
    notes: Sequence[str]
    left_out: Mapping[str, str]
    methods: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The content of `verification.json`."""
        return {
            "title": self.title,
            "source": self.source,
            "exporter": self.exporter,
            "failed_exporters": dict(self.failures),
            "versions": dict(self.versions),
            "sizes": {dim: str(limit) for dim, limit in self.limits.items()},
            "notes": list(self.notes),
            "left_out": dict(self.left_out),
            "files": {
                file.path.name: {
                    "precision": file.precision,
                    "bytes": file.nbytes,
                    "method": self.methods.get(file.path.name, self.exporter),
                    "tolerance": file.tolerance,
                    "speedup": file.speedup,
                    "metric": dict(file.metric),
                    "comparisons": [_as_json(comparison) for comparison in file.comparisons],
                }
                for file in self.files
            },
        }

    def as_markdown(self) -> str:
        """The content of `verification.md`."""
        lines = [f"# {self.title}", "", f"Exported from `{self.source}` with {self.exporter}.", ""]
        lines += [f"- {sizes}" for sizes in [proven(self.limits)] if sizes]
        lines += [f"- input `{spec}`" for spec in self.signature.inputs]
        lines += [f"- output `{spec}`" for spec in self.signature.outputs]
        lines += [f"- {name}: {version}" for name, version in self.versions.items()]
        lines += [f"- note: {note}" for note in self.notes]
        lines += [f"- {name} failed: {reason.splitlines()[0]}" for name, reason in self.failures.items()]
        lines += [f"- variant {name} was left out: {reason}" for name, reason in self.left_out.items()]
        lines += ["", "## Files", "", *_files(self.files)]
        for file in self.files:
            lines += ["", f"## {file.path.name}", "", *_comparisons(file.comparisons)]
        return "\n".join([*lines, ""])


def proven(limits: Mapping[str, Limits]) -> str:
    """The sizes at which the file was verified, such as `proven for batch 1..32, seq 1..512`."""
    return f"proven for {', '.join(f'{dim} {limit}' for dim, limit in limits.items())}" if limits else ""


def _as_json(comparison: Comparison) -> dict[str, Any]:
    """The fields, with null for a limit that there isn't: JSON has no infinity."""
    return asdict(comparison) | {"allowed": comparison.allowed if isfinite(comparison.allowed) else None}


def _files(files: Sequence[ModelFile]) -> list[str]:
    rows = [
        [
            file.path.name,
            file.precision,
            f"{file.nbytes / 1e6:.3g} MB",
            f"{file.max_rel_error:.1e}",
            f"{file.speedup:.2f}x" if file.speedup else "1x",
            ", ".join(f"{name} {value:.4g}" for name, value in file.metric.items()),
        ]
        for file in files
    ]
    return _table(["file", "precision", "size", "largest error", "speed", "metric"], rows)


def _comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    rows = [
        [
            c.point,
            c.output,
            f"{c.max_abs_error:.1e}",
            f"{c.max_rel_error:.1e}",
            f"{c.allowed:.1e}" if isfinite(c.allowed) else "any",
        ]
        for c in comparisons
    ]
    return _table(["point", "output", "error", "relative", "allowed"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
