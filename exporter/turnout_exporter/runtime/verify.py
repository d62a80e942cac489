"""The child process that runs ONNX Runtime: compares a file with the samples of the reference.

Like the server, it imports neither torch nor the user's code. A file that crashes ONNX Runtime crashes only this process.
"""

from dataclasses import asdict
from pathlib import Path

import onnx
import onnxruntime as ort

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.compare import Comparison, compare, failed
from turnout_exporter.errors import Refused
from turnout_exporter.jobs import Verified, VerifyJob
from turnout_exporter.runtime.sessions import explain, open_session, run_session
from turnout_exporter.spec import reference
from turnout_exporter.spec.datatypes import BY_NAME
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.reference import Sample
from turnout_exporter.spec.signature import TensorSpec, inputs_of, outputs_of


def run(job_fields: Json, channel: Channel) -> Json:
    """Does a `VerifyJob`: compares every output at every point; returns `Verified` as a dict."""
    job = VerifyJob(**job_fields)
    samples = reference.read(Path(job.reference))
    if job.opset:
        _check_opset(Path(job.path), job.opset)
    session = open_session(Path(job.path), job.provider)
    _check_tensors("input", session.get_inputs(), inputs_of(parse_inputs(job.inputs)))
    _check_tensors("output", session.get_outputs(), outputs_of(samples))
    comparisons = []
    for number, sample in enumerate(samples, 1):
        channel.detail(f"{number} of {len(samples)}")
        comparisons += compare_at(session, sample, job.tolerance)
    return asdict(Verified(comparisons, ort.__version__))


def compare_at(session: ort.InferenceSession, sample: Sample, tolerance: float | None) -> list[Comparison]:
    """The comparison of each output at one point."""
    label = sample.point.label
    try:
        answers = run_session(session, sample.inputs, list(sample.outputs))
    except Exception as error:  # ONNX Runtime's errors share no root
        return [failed(label, name, f"can't be computed: {explain(error)}") for name in sample.outputs]
    return [
        compare(label, name, expected, answers[name], sample.inputs, tolerance) for name, expected in sample.outputs.items()
    ]


def _check_opset(path: Path, opset: int) -> None:
    """Raises Refused for another opset: torch falls back to one with no more than a line in its log."""
    found = {entry.domain: entry.version for entry in onnx.load(path, load_external_data=False).opset_import}
    if found.get("") != opset:
        raise Refused(f"the exported file has opset {found.get('')}, not the {opset} that was asked for")


def _check_tensors(side: str, found: list[ort.NodeArg], expected: list[TensorSpec]) -> None:
    """Raises Refused unless names in order, element types, and every size that the file fixes are as expected."""
    if [arg.name for arg in found] != [spec.name for spec in expected]:
        raise Refused(f"the {side}s became {[arg.name for arg in found]} instead of {[spec.name for spec in expected]}")
    for arg, spec in zip(found, expected, strict=True):
        if arg.type != BY_NAME[spec.datatype].onnx:
            raise Refused(f"{side} {spec.name!r} became {arg.type} instead of {spec.datatype}")
        fixed = [dim if isinstance(dim, int) else None for dim in arg.shape]
        if len(fixed) != len(spec.shape) or any(size not in (None, dim) for size, dim in zip(fixed, spec.shape, strict=True)):
            raise Refused(
                f"{side} {spec.name!r} is declared {arg.shape}, but {list(spec.shape)} was seen: "
                f"the exporter fixed a size that only its example has"
            )


if __name__ == "__main__":
    children.answer(run)
