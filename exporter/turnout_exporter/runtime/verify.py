"""The child process that runs ONNX Runtime: compares an exported file with PyTorch's outputs.

Like the server, it imports neither torch nor the user's code. A file that crashes ONNX Runtime crashes only this process.
"""

from dataclasses import asdict
from pathlib import Path

import onnx
import onnxruntime as ort

from turnout_exporter import children
from turnout_exporter.children import Json, Step
from turnout_exporter.compare import Comparison, compare, failed
from turnout_exporter.errors import Refused
from turnout_exporter.jobs import Verified, VerifyJob
from turnout_exporter.spec import reference
from turnout_exporter.spec.datatypes import DATATYPES
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.reference import Sample
from turnout_exporter.spec.signature import TensorSpec, inputs_of, outputs_of

_ONNX_NAMES = {datatype.name: datatype.onnx for datatype in DATATYPES}


def run(job_fields: Json, _: Step) -> Json:
    """Does a `VerifyJob`: compares every output at every point; returns `Verified` as a dict."""
    job = VerifyJob(**job_fields)
    samples = reference.read(Path(job.reference))
    _check_opset(Path(job.model), job.opset)
    session = _load(job.model)
    _check_tensors("input", session.get_inputs(), inputs_of(parse_inputs(job.inputs)))
    _check_tensors("output", session.get_outputs(), outputs_of(samples))
    comparisons = [comparison for sample in samples for comparison in _compare_at(session, sample)]
    return asdict(Verified(comparisons, ort.__version__))


def _check_opset(path: Path, opset: int) -> None:
    """Raises Refused for another opset: torch falls back to one with no more than a line in its log."""
    found = {entry.domain: entry.version for entry in onnx.load(path, load_external_data=False).opset_import}
    if found.get("") != opset:
        raise Refused(f"the exported file has opset {found.get('')}, not the {opset} that was asked for")


def _load(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = children.THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no root
        raise Refused(f"ONNX Runtime can't load the exported model: {error}") from error


def _check_tensors(side: str, found: list[ort.NodeArg], expected: list[TensorSpec]) -> None:
    """Raises Refused unless names in order, element types, and every size that the file fixes are as expected."""
    if [arg.name for arg in found] != [spec.name for spec in expected]:
        raise Refused(f"the {side}s became {[arg.name for arg in found]} instead of {[spec.name for spec in expected]}")
    for arg, spec in zip(found, expected, strict=True):
        if arg.type != _ONNX_NAMES[spec.datatype]:
            raise Refused(f"{side} {spec.name!r} became {arg.type} instead of {spec.datatype}")
        fixed = [dim if isinstance(dim, int) else None for dim in arg.shape]
        if len(fixed) != len(spec.shape) or any(size not in (None, dim) for size, dim in zip(fixed, spec.shape, strict=True)):
            raise Refused(
                f"{side} {spec.name!r} is declared {arg.shape}, but PyTorch showed {list(spec.shape)}: "
                f"the exporter fixed a size that only its example has"
            )


def _compare_at(session: ort.InferenceSession, sample: Sample) -> list[Comparison]:
    label = sample.point.label
    try:
        answers = session.run(list(sample.outputs), sample.inputs)
    except Exception as error:  # ONNX Runtime's errors share no root
        return [failed(label, name, f"ONNX Runtime fails: {error}") for name in sample.outputs]
    return [
        compare(label, name, expected, actual) for (name, expected), actual in zip(sample.outputs.items(), answers, strict=True)
    ]


if __name__ == "__main__":
    children.answer(run)
