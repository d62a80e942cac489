"""The whole export: build and export, verify, publish."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from turnout_exporter import children
from turnout_exporter.compare import Comparison
from turnout_exporter.errors import Refused
from turnout_exporter.jobs import OPSET, Built, ExportJob, Verified, VerifyJob
from turnout_exporter.repository import manifest, modelconfig
from turnout_exporter.repository.publish import Destination, publish
from turnout_exporter.spec import reference, signature
from turnout_exporter.spec.inputspec import InputSpec
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample
from turnout_exporter.spec.signature import Signature
from turnout_exporter.spec.sources import Source

MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
_SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class Request:
    """What to export, and where to.

    Attributes:
        points: the sizes to verify; the model is exported at the first.
        output_names: None to name them after what `forward` returns.
        labels: the names of the classes, in order; may be empty.
        max_batch_size: the most rows of a batch, if axis 0 turns out to be a batch axis.
    """

    source: Source
    kwargs: dict[str, Any]
    weights: Path | None
    inputs: list[InputSpec]
    points: list[Point]
    output_names: list[str] | None
    labels: tuple[str, ...]
    max_batch_size: int
    destination: Destination


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        max_batch_size: 0 if requests can't be batched.
    """

    directory: Path
    signature: Signature
    max_batch_size: int


class Progress(Protocol):
    """Receives the progress of an export."""

    def step(self, title: str) -> None:
        """A step has begun."""

    def compared(self, comparisons: list[Comparison]) -> None:
        """Every output at every point has been compared."""


class _Work:
    """The files of one export before they are published; those in `files` will be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "files"
        self.model = self.files / MODEL_FILE
        self.reference = directory / "reference.npz"
        self.files.mkdir()


def export(request: Request, progress: Progress) -> Published:
    """Exports, verifies and publishes a model; if any step fails, nothing is published.

    Raises:
        ExportError: a step failed; the text has the reason and the fix.
    """
    request.destination.check_free()
    with tempfile.TemporaryDirectory(prefix="turnout-export-") as directory:
        work = _Work(Path(directory))
        built = _build(request, work, progress)
        verified = _verify(request, work, progress)
        progress.step("Publishing")
        samples = reference.read(work.reference)
        measured = _measure(request, samples)
        reference.write(work.files / GOLDEN_FILE, reference.golden(samples))
        _write_manifest(request, work, measured, built, verified)
        max_batch_size = request.max_batch_size if measured.batch_axis == 0 else 0
        config = modelconfig.describe(request.destination.name, measured, max_batch_size)
        publish(work.files, config, request.labels, request.destination)
    return Published(request.destination.directory, measured, max_batch_size)


def _build(request: Request, work: _Work, progress: Progress) -> Built:
    job = ExportJob(
        source=str(request.source),
        kwargs=request.kwargs,
        weights=str(request.weights) if request.weights else None,
        inputs=[str(spec) for spec in request.inputs],
        points=[point.label for point in request.points],
        output_names=request.output_names,
        opset=OPSET,
        model=str(work.model),
        reference=str(work.reference),
    )
    title = f"Building {request.source}"
    return Built(**children.run("turnout_exporter.pytorch.export", title, asdict(job), work.directory, progress.step))


def _measure(request: Request, samples: list[Sample]) -> Signature:
    measured = signature.measure(request.inputs, samples)
    return signature.with_labels(measured, request.labels) if request.labels else measured


def _verify(request: Request, work: _Work, progress: Progress) -> Verified:
    job = VerifyJob(
        inputs=[str(spec) for spec in request.inputs],
        opset=OPSET,
        model=str(work.model),
        reference=str(work.reference),
    )
    title = f"Running ONNX Runtime at {len(request.points)} points"
    result = children.run("turnout_exporter.runtime.verify", title, asdict(job), work.directory, progress.step)
    verified = Verified([Comparison(**fields) for fields in result["comparisons"]], result["onnxruntime"])
    progress.compared(verified.comparisons)
    if any(comparison.problem for comparison in verified.comparisons):
        raise Refused(_refusal(verified.comparisons, request.points[0]))
    return verified


def _write_manifest(request: Request, work: _Work, measured: Signature, built: Built, verified: Verified) -> None:
    content = manifest.describe(
        name=request.destination.name,
        version=request.destination.version,
        source=manifest.source(request.source, built.source_file, request.weights),
        versions=built.versions | {"onnxruntime": verified.onnxruntime},
        opset=OPSET,
        signature=measured,
        files=sorted(work.files.glob(f"{MODEL_FILE}*")),
        precision=built.precision,
        comparisons=verified.comparisons,
    )
    (work.files / manifest.MANIFEST_FILE).write_text(json.dumps(content, indent=2) + "\n")


def _refusal(comparisons: list[Comparison], base: Point) -> str:
    problems = [comparison for comparison in comparisons if comparison.problem]
    differing, tried = ({c.point for c in part} for part in (problems, comparisons))
    lines = [f"  at {c.point}, output {c.output!r} {c.problem}" for c in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  and {len(problems) - _SHOWN_PROBLEMS} more")
    return "\n".join(
        [
            f"ONNX Runtime and PyTorch differ at {len(differing)} of {len(tried)} points, so nothing was published:",
            *lines,
            f"The model was exported at {base.label}; a Python `if` or number in forward that depends on a "
            f"size keeps the value it had there. Compute it with tensors, or make that dimension a fixed number.",
        ]
    )
