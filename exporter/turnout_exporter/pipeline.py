"""The whole export: examine, export and verify, make variants, publish."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from turnout_proto.model_config_pb2 import ModelConfig

from turnout_exporter import children, conversion, interrupts
from turnout_exporter.compare import Comparison
from turnout_exporter.conversion import Converted
from turnout_exporter.errors import ExportError, SpecError
from turnout_exporter.jobs import DEFAULT_OPSET, AdoptJob, Examined, ExamineJob, ExportJob, GuardsJob, ModelJob, SampleJob
from turnout_exporter.repository import manifest, modelconfig
from turnout_exporter.repository.manifest import ModelFile
from turnout_exporter.repository.publish import Destination, check_fits, publish
from turnout_exporter.repository.report import REPORT_JSON, REPORT_MARKDOWN, Report
from turnout_exporter.repository.workspace import check_space, workspace
from turnout_exporter.spec import reference, signature
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.points import BATCH, Limits, Point
from turnout_exporter.spec.reference import Sample
from turnout_exporter.spec.signature import Signature
from turnout_exporter.spec.sources import Function, Kind, Source
from turnout_exporter.variants import Rules, Variant, VariantMaker

MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
_GUARDS_TIMEOUT_S = 180.0
_CALIBRATION_BATCHES, _CALIBRATION_ROWS = 8, 8


@dataclass(frozen=True)
class Request:
    """What to export, and where to.

    Attributes:
        inputs: the texts of `--input`; empty to find them out.
        ranges: the sizes that the user states; the others are found out.
        selected: the names of `--outputs`; None for all.
        output_names: None to name them after what `forward` returns.
        labels: the names of the classes, in order; may be empty.
        max_batch_size: the most rows of a batch, if axis 0 turns out to be a batch axis; None for the default.
        exporters: the exporters to try, in order.
        keep_values: whether a value that `forward` reads into Python may stay as it is in the export.
        variants: the precisions to make besides.
        reference: what gives the right outputs of an ONNX file; None for ONNX Runtime itself, without optimization.
    """

    source: Source
    destination: Destination
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    weights_key: str = ""
    strip_prefix: str = ""
    task: str = ""
    inputs: Sequence[str] = ()
    ranges: Mapping[str, Limits] = field(default_factory=dict)
    samples: Function | None = None
    selected: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    labels: Sequence[str] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    max_batch_size: int | None = None
    exporters: Sequence[str] = ("dynamo", "torchscript")
    keep_values: bool = False
    opset: int | None = None
    variants: Sequence[str] = ()
    rules: Rules = field(default_factory=Rules)
    reference: Function | None = None


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        max_batch_size: what the model's `config.pbtxt` says; 0 if requests aren't batched.
        limits: the sizes for which it is proven.
        variants: what came of each variant.
        seconds: how long it took.
    """

    directory: Path
    signature: Signature
    max_batch_size: int
    limits: Mapping[str, Limits]
    exporter: str
    variants: Sequence[Variant]
    seconds: float


class Progress(children.Progress, Protocol):
    """Receives the progress of an export."""

    def compared(self, comparisons: Sequence[Comparison]) -> None:
        """Every output at every point has been compared."""


def export(request: Request, progress: Progress) -> Published:
    """Exports, verifies and publishes a model; if any step fails, nothing is published.

    Raises:
        ExportError: a step failed; the text has the reason and the fix.
    """
    request.destination.check_free()
    with workspace(request.destination.repository) as directory:
        return _Export(request, directory, _Notes(progress)).run()


class _Notes:
    """Passes progress on, and keeps the notes for the report."""

    def __init__(self, progress: Progress) -> None:
        self.notes: list[str] = []
        self.step, self.detail, self.tick = progress.step, progress.detail, progress.tick
        self.failed, self.compared = progress.failed, progress.compared
        self._note = progress.note

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._note(text)


class _Export:
    """One export, in a folder of the repository."""

    def __init__(self, request: Request, directory: Path, progress: _Notes) -> None:
        self.request = request
        self.directory = directory
        self.progress = progress
        self.files = directory / "files"
        self.model = self.files / MODEL_FILE
        self.reference = directory / "reference"
        self.model_job = ModelJob(
            source=str(request.source),
            kwargs=dict(request.kwargs),
            weights=str(request.weights) if request.weights else None,
            weights_key=request.weights_key,
            strip_prefix=request.strip_prefix,
            task=request.task,
        )
        self.files.mkdir()

    def run(self) -> Published:
        began_s = time.monotonic()
        examined = self._examine()
        self._check_publishable(examined)
        check_space(self.directory, examined.weight_bytes * (2 + len(self.request.variants)))
        limits = {dim: Limits(*limit) for dim, limit in examined.limits.items()}
        converted = self._adopt(examined, limits) if self.request.source.kind is Kind.ONNX else self._convert(examined, limits)
        self.progress.compared(converted.comparisons)
        files, variants = self._variants(examined, converted, limits)
        self.progress.step("Publishing")
        samples = reference.read(self.reference)
        measured = self._measure(examined, samples)
        self._write(examined, converted, measured, limits, files, variants, samples)
        names = [file.path.name for file in files if file.path != self.model]
        config = self._configuration(examined, measured, names)
        interrupts.ignore()
        publish(self.files, config, measured.labels, self.request.destination)
        applied = modelconfig.read(self.request.destination.model / modelconfig.CONFIG_FILE)
        self._note_unlisted(applied, names)
        return Published(
            self.request.destination.directory,
            measured,
            applied.max_batch_size,
            limits,
            converted.exporter,
            variants,
            time.monotonic() - began_s,
        )

    def _check_publishable(self, examined: Examined) -> None:
        """Refuses before the export what publishing would refuse after it."""
        measured = self._measure(examined, reference.read(self.reference))
        check_fits(self._configuration(examined, measured), measured.labels, self.request.destination)

    def _configuration(self, examined: Examined, measured: Signature, variants: Sequence[str] = ()) -> ModelConfig:
        max_batch_size = examined.max_batch_size if measured.batch_axis == 0 else 0
        return modelconfig.describe(self.request.destination.name, measured, max_batch_size, variants)

    def _note_unlisted(self, config: ModelConfig, variants: list[str]) -> None:
        """Says which files no server will use, because the model's configuration was there before them."""
        path = self.request.destination.model / modelconfig.CONFIG_FILE
        if missing := modelconfig.unlisted(config, variants):
            line = f'parameters {{ key: "{modelconfig.VARIANTS}" value {{ string_value: "{", ".join(variants)}" }} }}'
            self.progress.note(f"{path} is left as it was, and doesn't list {', '.join(missing)}. To serve that, add: {line}")

    def _child(self, module: str, title: str, job: Any, timeout_s: float | None = None) -> children.Json:
        return children.run(f"turnout_exporter.{module}", title, asdict(job), self.directory, self.progress, timeout_s)

    def _examine(self) -> Examined:
        job = ExamineJob(
            model=asdict(self.model_job),
            inputs=list(self.request.inputs),
            ranges={dim: [limit.low, limit.high, limit.step] for dim, limit in self.request.ranges.items()},
            max_batch_size=self.request.max_batch_size,
            samples=_text(self.request.samples),
            selected=_list(self.request.selected),
            output_names=_list(self.request.output_names),
            reference=str(self.reference),
            reference_function=_text(self.request.reference),
        )
        if self.request.source.kind is Kind.ONNX:
            return Examined(**self._child("runtime.examine", f"Reading {self.request.source}", job))
        return Examined(**self._child("pytorch.examine", f"Building {self.request.source}", job))

    def _convert(self, examined: Examined, limits: Mapping[str, Limits]) -> Converted:
        if limits:
            self._sample_branches(examined)
        metadata = self._metadata(examined, limits)

        def job_for(exporter: str) -> ExportJob:
            return ExportJob(
                model=asdict(self.model_job),
                inputs=examined.inputs,
                selected=examined.selected,
                exporter=exporter,
                opset=self.request.opset or DEFAULT_OPSET,
                fingerprint=examined.fingerprint,
                reference=str(self.reference),
                path=str(self.model),
                metadata=metadata,
                keep_values=self.request.keep_values,
            )

        return conversion.convert(self.request.exporters, job_for, self.directory, self.progress)

    def _sample_branches(self, examined: Examined) -> None:
        """Adds samples at sizes at which `forward` may take another branch."""
        job = GuardsJob(
            asdict(self.model_job), examined.inputs, examined.selected, examined.limits, reference=str(self.reference)
        )
        try:
            found = self._child("pytorch.guards", "Looking for sizes at which forward branches", job, _GUARDS_TIMEOUT_S)
        except ExportError as error:  # the search is a help: what it finds is tried, and the rest is tried without it
            self.progress.note(f"sizes at which forward branches couldn't be looked for: {str(error).splitlines()[0]}")
            return
        tried = {sample.point.label for sample in reference.read(self.reference)}
        points = [Point(examined.base | {dim: size}).label for dim, sizes in found["sizes"].items() for size in sizes]
        further = [label for label in dict.fromkeys(points) if label not in tried]
        if further:
            sample_job = SampleJob(
                model=asdict(self.model_job),
                inputs=examined.inputs,
                selected=examined.selected,
                output_names=examined.output_names,
                samples=_text(self.request.samples),
                points=further,
                fingerprint=examined.fingerprint,
                reference=str(self.reference),
            )
            self._child("pytorch.sample", f"Running PyTorch at {len(further)} more points, where forward branches", sample_job)

    def _adopt(self, examined: Examined, limits: Mapping[str, Limits]) -> Converted:
        job = AdoptJob(self.request.source.place, str(self.model), str(self.reference), self._metadata(examined, limits))
        truth = str(self.request.reference or "itself without optimization")
        return conversion.adopt(job, examined.inputs, truth, self.directory, self.progress)

    def _variants(
        self, examined: Examined, converted: Converted, limits: Mapping[str, Limits]
    ) -> tuple[list[ModelFile], list[Variant]]:
        """The files of the version, and what came of each variant."""
        maker = VariantMaker(
            self.model,
            examined.inputs,
            self.reference,
            self.directory,
            self.request.rules,
            self.request.samples,
            _calibration_points(examined.base, limits),
        )
        metric = maker.metric_of(self.model, self.progress)
        variants = [maker.make(name, metric, self.progress) for name in self.request.variants]
        files = [ModelFile(self.model, examined.precision, converted.comparisons, metric)]
        files += [
            ModelFile(variant.path, variant.name, variant.comparisons, variant.metric, variant.speedup)
            for variant in variants
            if not variant.reason
        ]
        return files, variants

    def _measure(self, examined: Examined, samples: list[Sample]) -> Signature:
        measured = signature.measure(parse_inputs(examined.inputs), samples, examined.mixed)
        if self.request.labels:
            return signature.with_labels(measured, tuple(self.request.labels))
        try:
            return signature.with_labels(measured, tuple(examined.labels)) if examined.labels else measured
        except SpecError:  # a configuration may name classes that this output doesn't have
            return measured

    def _labels(self, examined: Examined) -> Sequence[str]:
        return self.request.labels or examined.labels

    def _preprocessing(self, examined: Examined) -> Mapping[str, Any]:
        return self.request.preprocessing or examined.preprocessing

    def _source(self, examined: Examined) -> dict[str, str | None]:
        return manifest.describe_source(self.request.source, examined.source_file, self.request.weights)

    def _metadata(self, examined: Examined, limits: Mapping[str, Limits]) -> dict[str, str]:
        return manifest.embedded(
            source=self._source(examined),
            versions=manifest.turnout_version() | examined.versions,
            labels=self._labels(examined),
            preprocessing=self._preprocessing(examined),
            limits=limits,
            task=self.request.task,
        )

    def _write(
        self,
        examined: Examined,
        converted: Converted,
        measured: Signature,
        limits: Mapping[str, Limits],
        files: list[ModelFile],
        variants: Sequence[Variant],
        samples: list[Sample],
    ) -> None:
        """Writes the files beside the model."""
        destination = self.request.destination
        versions = manifest.turnout_version() | examined.versions | converted.versions
        content = manifest.describe(
            name=destination.name,
            version=destination.version,
            source=self._source(examined),
            versions=versions,
            exporter=converted.exporter,
            opset=converted.opset,
            signature=measured,
            limits=limits,
            files=files,
            task=self.request.task,
            preprocessing=self._preprocessing(examined),
        )
        report = Report(
            title=f"{destination.name}, version {destination.version}",
            source=self.request.source.public,
            exporter=converted.exporter,
            versions=versions,
            signature=measured,
            limits=limits,
            files=files,
            failures=converted.failures,
            notes=self.progress.notes,
            left_out={variant.name: variant.reason for variant in variants if variant.reason},
            methods={variant.path.name: variant.method for variant in variants},
        )
        reference.write_golden(self.files / GOLDEN_FILE, reference.golden(samples))
        for name, text in (
            (manifest.MANIFEST_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n"),
            (REPORT_JSON, json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n"),
            (REPORT_MARKDOWN, report.as_markdown()),
        ):
            (self.files / name).write_text(text, encoding="utf-8")


def _calibration_points(base: Mapping[str, int], limits: Mapping[str, Limits]) -> list[str]:
    """The points at which `--samples` is asked for calibration data."""
    sizes = {dim: limits[dim].clamp(_CALIBRATION_ROWS if dim == BATCH else 3 * size + 1) for dim, size in base.items()}
    return [Point(sizes, draw).label for draw in range(1, _CALIBRATION_BATCHES + 1)]


def _text(function: Function | None) -> str | None:
    return str(function) if function else None


def _list(names: Sequence[str] | None) -> list[str] | None:
    return list(names) if names is not None else None
