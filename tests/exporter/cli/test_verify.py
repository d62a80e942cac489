"""`verify` and `inspect` on a version whose model is two lines of ONNX."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from turnout_exporter.cli.inspect import inspect_command
from turnout_exporter.cli.verify import verify_command
from turnout_exporter.repository.manifest import sha256
from turnout_exporter.spec import reference
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample

DOUBLED = '<ir_version: 10, opset_import: ["" : 20]> double (float[batch, 4] x) => (float[batch, 4] y) { y = Add(x, x) }'


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """`model.onnx` is right, and `model.int8.onnx` is off by 1 in 10, with a tolerance for that."""
    folder = tmp_path / "toy" / "1"
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(DOUBLED), folder / "model.onnx")
    off = DOUBLED.replace("y = Add(x, x)", "d = Add(x, x) y = Mul(d, w)").replace(
        "float[batch, 4] y) {", "float[batch, 4] y) <float w = {1.1}> {"
    )
    onnx.save(onnx.parser.parse_model(off), folder / "model.int8.onnx")
    x = [np.full((rows, 4), 3.0, np.float32) for rows in (2, 1)]
    reference.write_golden(folder / "golden.npz", [Sample(Point({"batch": len(a)}), {"x": a}, {"y": 2 * a}) for a in x])
    write_manifest(folder, tolerance=0.2)
    return folder


def write_manifest(folder: Path, tolerance: float) -> None:
    tensor = {"datatype": "FP32", "shape": ["batch", 4]}
    files = {
        "model.onnx": {"sha256": sha256(folder / "model.onnx"), "tolerance": 0.01},
        "model.int8.onnx": {"sha256": sha256(folder / "model.int8.onnx"), "tolerance": tolerance},
    }
    content = {"schema_version": 1, "files": files, "inputs": [tensor | {"name": "x"}], "outputs": [tensor | {"name": "y"}]}
    (folder / "model.json").write_text(json.dumps(content))


def verify(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(verify_command, [str(folder), *arguments])


def test_each_file_is_compared_within_its_own_tolerance(version: Path) -> None:
    result = verify(version)
    assert result.exit_code == 0, result.stderr
    assert "✓ Running model.int8.onnx on CPUExecutionProvider" in result.stdout
    write_manifest(version, tolerance=0.05)
    result = verify(version)
    assert result.exit_code == 1
    assert "model.int8.onnx at batch=2, output 'y' differs by 0.6 at [0, 0]: 6 became 6.6" in result.stderr
    assert "model.onnx at" not in result.stderr


def test_a_changed_file_is_named(version: Path) -> None:
    with (version / "model.onnx").open("ab") as file:
        file.write(b"x")
    result = verify(version)
    assert (result.exit_code, "model.onnx isn't the file that was published" in result.stderr) == (1, True)


def test_a_version_without_golden_outputs_cannot_be_verified(version: Path) -> None:
    (version / "golden.npz").unlink()
    assert "has no golden.npz, so nothing says which outputs are right" in verify(version).stderr


@pytest.mark.parametrize(
    ("device", "exit_code", "complaint"),
    [
        ("gpu", 2, "device 'gpu' isn't known: use one of cpu, cuda"),
        ("NoneExecutionProvider", 1, "doesn't work on this machine"),
    ],
)
def test_a_device_that_is_not_there_is_refused(version: Path, device: str, exit_code: int, complaint: str) -> None:
    result = verify(version, "--device", device)
    assert (result.exit_code, complaint in result.stderr) == (exit_code, True)


def test_a_version_is_described_file_by_file(version: Path) -> None:
    result = CliRunner().invoke(inspect_command, [str(version)])
    assert result.exit_code == 0, result.stderr
    assert "  input       x FLOAT[batch,4]" in result.stdout
    assert "  operators   2: Add 1, Mul 1" in result.stdout
    assert "CPUExecutionProvider        can run it" in result.stdout
