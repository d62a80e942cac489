"""Variants of a published file in other precisions: made, verified, timed, and left out if they aren't worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from turnout_exporter import children
from turnout_exporter.children import Progress
from turnout_exporter.compare import Comparison
from turnout_exporter.conversion import run_verification
from turnout_exporter.errors import ExportError, SpecError
from turnout_exporter.jobs import MetricJob, TimingJob, VariantJob, VerifyJob
from turnout_exporter.spec.sources import Function

#: The largest error of each variant that is published, as a share of an output's largest value.
MAX_ERRORS = {"fp16": 0.02, "int8": 0.1}
MAX_METRIC_DROP = 0.01
LEAST_SPEEDUP = 1.05  #: of int8, whose answers are worse for nothing if it isn't faster by more than the measurement's error


@dataclass(frozen=True)
class Variant:
    """What came of a variant.

    Attributes:
        name: `fp16` or `int8`.
        path: its file.
        reason: why it isn't published; empty if it is.
        method: how it was made.
        speedup: how many times as fast it is as the file that it was made from.
        metric: the user's own figures.
    """

    name: str
    path: Path
    reason: str = ""
    method: str = ""
    comparisons: Sequence[Comparison] = ()
    speedup: float = 0.0
    metric: Mapping[str, float] = field(default_factory=dict)

    @property
    def max_rel_error(self) -> float:
        return max((comparison.max_rel_error for comparison in self.comparisons), default=float("inf"))


@dataclass(frozen=True)
class Rules:
    """Which variants are published.

    Attributes:
        max_errors: the largest error by variant.
        metric: the function of `--metric`. With it the figures decide, not the errors of single values.
        max_metric_drop: by how much each figure may be below that of the original.
    """

    max_errors: Mapping[str, float] = field(default_factory=lambda: dict(MAX_ERRORS))
    metric: Function | None = None
    max_metric_drop: float = MAX_METRIC_DROP

    def objection(self, variant: Variant, original: Mapping[str, float]) -> str:
        """Why a variant isn't published; empty if it is.

        Args:
            original: the figures of the file that it was made from.
        """
        if variant.name == "int8" and variant.speedup < LEAST_SPEEDUP:
            return f"it is no faster: {variant.speedup:.2f} times as fast as the original on this machine"
        if self.metric:
            drops = {name: value - variant.metric.get(name, float("-inf")) for name, value in original.items()}
            worst = max(drops, key=lambda name: drops[name])
            if drops[worst] > self.max_metric_drop:
                return f"{worst} falls from {original[worst]:.4g} to {variant.metric.get(worst, 0):.4g} (--max-metric-drop)"
            return ""
        allowed = self.max_errors[variant.name]
        if variant.max_rel_error > allowed:
            return f"its error is {variant.max_rel_error:.2g} of the largest value, and {allowed:g} is allowed (--max-error)"
        return ""


def parse_max_error(text: str) -> tuple[str, float]:
    """Parses one `--max-error`, such as `int8=0.2`.

    Raises:
        SpecError: it has another form, or names no variant.
    """
    name, _, value = text.partition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = -1.0
    if name not in MAX_ERRORS or not 0 <= limit < float("inf"):
        raise SpecError(
            f"max-error {text!r} can't be read: write variant=share, for example int8=0.2; variants are {', '.join(MAX_ERRORS)}"
        )
    return name, limit


class VariantMaker:
    """Makes variants of one file.

    Attributes:
        original: the file, in the folder in which its variants are written.
        reference: the folder with the samples.
        directory: for the files of the child processes.
    """

    def __init__(
        self,
        original: Path,
        inputs: list[str],
        reference: Path,
        directory: Path,
        rules: Rules,
        samples: Function | None,
        calibration: list[str],
    ) -> None:
        self.original = original
        self.reference = reference
        self.directory = directory
        self._inputs = inputs
        self._rules = rules
        self._samples = samples
        self._calibration = calibration

    def metric_of(self, path: Path, progress: Progress) -> dict[str, float]:
        """The user's figures for a file; none without `--metric`."""
        if self._rules.metric is None:
            return {}
        job = MetricJob(str(path), str(self._rules.metric))
        figures: dict[str, float] = self._child("metric", f"Judging {path.name} by {self._rules.metric}", job, progress)[
            "metric"
        ]
        return figures

    def make(self, name: str, original_metric: Mapping[str, float], progress: Progress) -> Variant:
        """Makes one variant; one that can't be made, crashes or is too far off is left out, with the reason."""
        path = self.original.with_name(f"model.{name}.onnx")
        try:
            variant = self._measure(name, path, progress)
            variant = replace(variant, reason=variant.reason or self._rules.objection(variant, original_metric))
        except ExportError as error:
            variant = Variant(name, path, reason=str(error).splitlines()[0])
        if variant.reason:
            path.unlink(missing_ok=True)
            progress.note(f"{name} is left out: {variant.reason}")
        return variant

    def _measure(self, name: str, path: Path, progress: Progress) -> Variant:
        samples = str(self._samples) if self._samples else None
        job = VariantJob(name, str(self.original), str(path), self._inputs, samples, self._calibration)
        method = self._child("convert", f"Converting to {name}", job, progress)["method"]
        verify_job = VerifyJob(self._inputs, 0, str(path), str(self.reference), tolerance=float("inf"))
        verified = run_verification(verify_job, f"Comparing {name} with the reference", self.directory, progress)
        if broken := next((c for c in verified.comparisons if c.problem), None):
            return Variant(
                name, path, f"at {broken.point}, output {broken.output!r} {broken.problem}", method, verified.comparisons
            )
        timing = self._child(
            "timing", f"Timing {name}", TimingJob(str(path), str(self.original), str(self.reference)), progress
        )
        return Variant(name, path, "", method, verified.comparisons, timing["speedup"], self.metric_of(path, progress))

    def _child(self, module: str, title: str, job: Any, progress: Progress) -> children.Json:
        return children.run(f"turnout_exporter.runtime.{module}", title, asdict(job), self.directory, progress)
