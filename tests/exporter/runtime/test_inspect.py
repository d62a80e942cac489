from pathlib import Path

import pytest
from turnout_exporter.errors import SourceError
from turnout_exporter.jobs import Inspected, InspectJob
from turnout_exporter.runtime import inspect

from tests.exporter.runtime.models import SILENT, save


def test_a_file_is_described_with_the_graphs_inside_its_control_flow(tmp_path: Path) -> None:
    text = """choose (float[N, 4] x, bool flag) => (float[N, ?] y) <float[2, 2] w = {1, 2, 3, 4}> {
        y = If (flag) <
            then_branch = one () => (float[N, 4] a) { a = Relu(x) },
            else_branch = two () => (float[N, 4] b) { b = Neg(x) }
        >
    }"""
    found = Inspected(**inspect.run(vars(InspectJob(str(save(tmp_path, text)))), SILENT))
    assert found.operators == {"If": 1, "Relu": 1, "Neg": 1}
    assert (found.opset, found.parameters) == (20, 4)
    assert found.inputs == ["x FLOAT[N,4]", "flag BOOL[]"]
    assert found.outputs == ["y FLOAT[N,?]"]
    assert "CPUExecutionProvider" in found.providers


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not ONNX")
    with pytest.raises(SourceError, match=r"x\.onnx can't be read as an ONNX file"):
        inspect.run(vars(InspectJob(str(tmp_path / "x.onnx"))), SILENT)
