"""The child process that runs ONNX Runtime, on files that torch didn't write."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from turnout_exporter import children
from turnout_exporter.errors import Refused
from turnout_exporter.jobs import VerifyJob
from turnout_exporter.spec import reference
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample

from tests.exporter.progress import Recorded

DOUBLED = "double (float[batch, 4] x) => (float[batch, 4] y) { y = Add(x, x) }"


def verify(directory: Path, model: str, opset: int = 20) -> children.Json:
    """Verifies a model in ONNX's text format against y = 2 x at two points."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}]> '
    onnx.save(onnx.parser.parse_model(header + model), directory / "model.onnx")
    inputs = [np.ones((rows, 4), np.float32) for rows in (2, 1)]
    samples = [Sample(Point({"batch": len(x)}), {"x": x}, {"y": 2 * x}) for x in inputs]
    reference.write(directory / "reference", samples)
    job = VerifyJob(["x=float32[batch,4]"], 20, str(directory / "model.onnx"), str(directory / "reference"))
    return children.run("turnout_exporter.runtime.verify", "Verifying", asdict(job), directory, Recorded())


def test_a_correct_file_passes_at_every_point(tmp_path: Path) -> None:
    result = verify(tmp_path, DOUBLED)
    assert [(c["point"], c["output"], c["problem"]) for c in result["comparisons"]] == [
        ("batch=2", "y", ""),
        ("batch=1", "y", ""),
    ]


def test_wrong_values_are_a_problem_at_each_point(tmp_path: Path) -> None:
    result = verify(tmp_path, DOUBLED.replace("Add", "Mul"))
    assert [c["max_abs_error"] for c in result["comparisons"]] == [1.0, 1.0]
    assert all(
        "differs by 1 at [0, 0]: 2 became 1 (allowed 0.00021), for x[0] = [1 1 1 1]" in c["problem"]
        for c in result["comparisons"]
    )


def test_a_file_that_fails_at_one_size_only_is_reported_with_the_size(tmp_path: Path) -> None:
    wants_two_rows = """double (float[batch, 4] x) => (float[batch, 4] y) <int64[1] one = {1}> {
        second = Gather <axis = 0> (x, one)  zero = Sub(second, second)  doubled = Add(x, x)  y = Add(doubled, zero)
    }"""
    good, bad = verify(tmp_path, wants_two_rows)["comparisons"]
    assert (good["point"], good["problem"]) == ("batch=2", "")
    assert bad["point"] == "batch=1"
    assert bad["problem"].startswith("can't be computed:")


@pytest.mark.parametrize(
    ("model", "opset", "complaint"),
    [
        (DOUBLED, 19, "has opset 19, not the 20"),
        (DOUBLED.replace("x", "x_orig"), 20, r"the inputs became \['x_orig'\] instead of \['x'\]"),
        (DOUBLED.replace("y", "z"), 20, r"the outputs became \['z'\] instead of \['y'\]"),
        (DOUBLED.replace("float[", "double["), 20, r"input 'x' became tensor\(double\) instead of FP32"),
        (DOUBLED.replace("batch, 4] y", "2, 4] y"), 20, r"output 'y' is declared \[2, 4\], but \['batch', 4\] was seen"),
        (DOUBLED.replace("Add", "Ad"), 20, "ONNX Runtime can't load model.onnx"),
    ],
)
def test_a_file_with_another_interface_is_refused(tmp_path: Path, model: str, opset: int, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        verify(tmp_path, model, opset)
