"""From a PyTorch model to an ONNX file that computes the same: one of torch's exporters, then the other if that fails."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from turnout_exporter import children
from turnout_exporter.children import Progress
from turnout_exporter.compare import Comparison
from turnout_exporter.errors import ChildDied, ConversionError, ExportError, Refused, SpecError, ValueBranch
from turnout_exporter.jobs import DEFAULT_OPSET, AdoptJob, ExportJob, Verified, VerifyJob

AUTO = "auto"
ADOPTED = "adopted"  #: instead of an exporter, for an ONNX file
#: torch's exporters in the order in which `auto` tries them, with the opsets that each of them writes.
OPSETS = {"dynamo": range(18, 27), "torchscript": range(9, 21)}
KEEPING_VALUES = "torchscript"  #: asked for by name, it publishes a model that decides by a value as the export decided
#: From the comparisons that failed, and the labels of all points that were tried in order, to the likely cause.
Diagnosis = Callable[[Sequence[Comparison], Sequence[str]], str]

_TITLES = {"dynamo": "torch.onnx", "torchscript": "torch's TorchScript exporter"}
_SHOWN_PROBLEMS = 5
_SMALL = 1e-2  #: a share of the output's largest value
_RARE = 0.05  #: a share of the output's elements
_ROUNDING = (
    "The differences are small or rare, so the cause is probably rounding: the two add in different orders. Return the value "
    "before a round, an argmax or a comparison, and let the client do that; compute what amplifies errors in float64; or leave "
    "these sizes out with --range"
)
_KEEPING_IT = f"If it is always decided as it is for random inputs, --exporter {KEEPING_VALUES} exports it that way"


@dataclass(frozen=True)
class Converted:
    """An ONNX file that was verified.

    Attributes:
        exporter: the exporter that wrote it.
        opset: its version of ONNX's operators.
        comparisons: how it was verified.
        versions: the versions of the packages that wrote and ran it.
        failures: why the exporters before it failed, by their names.
    """

    exporter: str
    opset: int
    comparisons: list[Comparison]
    versions: dict[str, str]
    failures: dict[str, str] = field(default_factory=dict)


def exporters(name: str, opset: int | None) -> list[str]:
    """The exporters to try, in order.

    Args:
        name: `auto` or one of them.
        opset: the opset that is asked for; None for the default.

    Raises:
        SpecError: none of them writes it.
    """
    wanted = opset or DEFAULT_OPSET
    candidates = list(OPSETS) if name == AUTO else [name]
    fitting = [exporter for exporter in candidates if wanted in OPSETS[exporter]]
    if not fitting:
        ranges = ", ".join(f"{exporter} writes {OPSETS[exporter][0]} to {OPSETS[exporter][-1]}" for exporter in candidates)
        raise SpecError(f"opset {wanted} can't be exported: {ranges}")
    return fitting


def convert(names: Sequence[str], job_for: Callable[[str], ExportJob], directory: Path, progress: Progress) -> Converted:
    """Exports and verifies with one exporter after another, until one succeeds.

    Args:
        names: the exporters to try.
        job_for: the job of an exporter.
        directory: for the files of the child processes.

    Raises:
        ExportError: none succeeded; the text has the reason of each.
    """
    failures: dict[str, ExportError] = {}
    for name in names:
        job = job_for(name)
        try:
            versions = _export(name, job, directory, progress)
            verify_job = VerifyJob(inputs=job.inputs, opset=job.opset, path=job.path, reference=job.reference)
            verified = verify_file(verify_job, "PyTorch", _export_diagnosis, directory, progress)
            return Converted(
                name,
                job.opset,
                verified.comparisons,
                versions | {"onnxruntime": verified.onnxruntime},
                {failed: str(error) for failed, error in failures.items()},
            )
        except ValueBranch as error:
            _remove(Path(job.path))
            raise error if KEEPING_VALUES not in names else ValueBranch(f"{error}. {_KEEPING_IT}", error.detail) from None
        except (ConversionError, Refused, ChildDied) as error:
            failures[name] = error
            if name != names[-1]:
                progress.note(f"{_TITLES[name]} failed, so {_TITLES[names[-1]]} is tried: {str(error).splitlines()[0]}")
            _remove(Path(job.path))
    raise _all_failed(failures)


def adopt(job: AdoptJob, inputs: list[str], truth: str, directory: Path, progress: Progress) -> Converted:
    """Copies an ONNX file and verifies the copy, as ONNX Runtime optimizes it.

    Args:
        inputs: `--input` texts of its inputs.
        truth: what gave the reference, for messages.

    Raises:
        ExportError: it can't be copied, or computes something else.
    """
    adopted = children.run("turnout_exporter.runtime.adopt", "Copying the file", asdict(job), directory, progress)
    verify_job = VerifyJob(inputs=inputs, opset=0, path=job.path, reference=job.reference)
    verified = verify_file(verify_job, truth, _adoption_diagnosis, directory, progress)
    versions = adopted["versions"] | {"onnxruntime": verified.onnxruntime}
    return Converted(ADOPTED, adopted["opset"], verified.comparisons, versions)


def _export(name: str, job: ExportJob, directory: Path, progress: Progress) -> dict[str, str]:
    title = f"Exporting with {_TITLES[name]}"
    versions: dict[str, str] = children.run("turnout_exporter.pytorch.export", title, asdict(job), directory, progress)[
        "versions"
    ]
    return versions


def verify_file(job: VerifyJob, truth: str, diagnosis: Diagnosis, directory: Path, progress: Progress) -> Verified:
    """Compares a file with the reference.

    Args:
        truth: what gave the reference, for messages.
        diagnosis: what the differences say about their cause.

    Raises:
        Refused: they differ, or the file has another interface.
    """
    verified = run_verification(job, f"Comparing ONNX Runtime with {truth}", directory, progress)
    if any(comparison.problem for comparison in verified.comparisons):
        progress.failed()
        raise Refused(_refusal(verified.comparisons, truth, diagnosis))
    return verified


def run_verification(job: VerifyJob, title: str, directory: Path, progress: Progress) -> Verified:
    """The comparison of a file with the reference, in a process of its own."""
    result = children.run("turnout_exporter.runtime.verify", title, asdict(job), directory, progress)
    return Verified([Comparison(**fields) for fields in result["comparisons"]], result["onnxruntime"])


def _remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def _all_failed(failures: dict[str, ExportError]) -> ExportError:
    first, *others = failures.values()
    if not others:
        return first
    lines = ["no exporter wrote a file that computes the same, so nothing was published"]
    reasons: dict[str, list[str]] = {}
    for name, error in failures.items():
        reasons.setdefault(str(error), []).append(_TITLES[name])
    lines += [f"{' and '.join(titles)}: {reason}" for reason, titles in reasons.items()]
    return type(first)("\n".join(lines), first.detail)


def _refusal(comparisons: Sequence[Comparison], truth: str, diagnosis: Diagnosis) -> str:
    problems = [comparison for comparison in comparisons if comparison.problem]
    differing, tried = (list(dict.fromkeys(c.point for c in part)) for part in (problems, comparisons))
    lines = [f"  at {c.point}, output {c.output!r} {c.problem}" for c in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  and {len(problems) - _SHOWN_PROBLEMS} more")
    head = f"ONNX Runtime and {truth} differ at {len(differing)} of {len(tried)} points:"
    return "\n".join([head, *lines, _ROUNDING if all(map(_is_rounding, problems)) else diagnosis(problems, tried)])


def _is_rounding(problem: Comparison) -> bool:
    """Whether a difference is as small, or in a whole number as rare, as rounding makes it; branches change most elements."""
    if not math.isfinite(problem.max_abs_error):
        return False
    return problem.differing_share < _RARE if not problem.allowed else problem.max_rel_error < _SMALL


def _export_diagnosis(problems: Sequence[Comparison], tried: Sequence[str]) -> str:
    """What the points of the differences say about their cause. The model was exported at the first point."""
    if all(problem.problem.startswith("is ") for problem in problems):
        return (
            "A shape that depends on values instead of sizes can't be served: pad_packed_sequence needs total_length, for "
            "example, and a selection of elements must become a mask"
        )
    if tried[0] in {problem.point for problem in problems}:
        return (
            "They differ at the sizes of the export as well, so the cause is an operator that computes something else in ONNX, "
            "or values for which the result isn't defined"
        )
    return (
        f"The model was exported at {tried[0]}; a Python `if` or number in forward that depends on a size keeps the value it "
        f"had there. Compute it with tensors, make that dimension a fixed number, or leave these sizes out with --range"
    )


def _adoption_diagnosis(problems: Sequence[Comparison], tried: Sequence[str]) -> str:
    where = "at every point" if len({problem.point for problem in problems}) == len(tried) else "at some sizes only"
    return (
        f"They differ {where}: the converter computes something else there, or the values aren't ones that the model takes; "
        f"give those with --input NAME=TYPE[DIMS]@LOW:HIGH or --samples"
    )
