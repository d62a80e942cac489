"""Real exports in real processes; each takes seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import psutil
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from turnout_exporter.cli.export import export_command
from turnout_exporter.repository import modelconfig
from turnout_exporter.repository.manifest import sha256
from turnout_exporter.spec import reference
from turnout_proto.model_config_pb2 import ModelConfig

from tests.exporter import zoo

ZOO = zoo.__file__
LABELS = ("good", "bad", "ugly")


def export(repository: Path, name: str, *arguments: str) -> Result:
    return CliRunner().invoke(export_command, [*arguments, "--name", name, "--repository", str(repository)])


def tensors(config: ModelConfig) -> list[tuple[str, list[int]]]:
    """Name and dims of the inputs, then of the outputs."""
    inputs = [(tensor.name, list(tensor.dims)) for tensor in config.input]
    return inputs + [(tensor.name, list(tensor.dims)) for tensor in config.output]


def export_words(directory: Path, *arguments: str) -> Result:
    weights, labels = directory / "words.safetensors", directory / "classes"
    if not weights.exists():
        save_file(zoo.Words(layers=2).state_dict(), weights)
        labels.write_text("\n".join(LABELS))
    return export(
        directory / "models", "words", f"{ZOO}:Words", "--kwarg", "layers=2", "--weights", str(weights),
        "--labels", str(labels), "--input", "ids=int64[batch,seq]@0:100", "--range", "seq=1..20", *arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the repository `models`, which contains `words`; for tests that only read."""
    directory = tmp_path_factory.mktemp("words")
    result = export_words(directory)
    assert result.exit_code == 0, result.output
    return directory


@pytest.fixture
def version(directory: Path) -> Path:
    return directory / "models" / "words" / "1"


def test_the_manifest_is_valid_and_correct(version: Path, directory: Path) -> None:
    manifest = json.loads((version / "model.json").read_text())
    jsonschema.validate(manifest, json.loads(files("turnout_exporter").joinpath("model.schema.json").read_text()))
    assert (manifest["name"], manifest["version"], manifest["batch_axis"]) == ("words", 1, 0)
    assert manifest["inputs"] == [{"name": "ids", "datatype": "INT64", "shape": ["batch", "seq"], "range": [0, 100]}]
    assert manifest["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": ["batch", 3], "labels": list(LABELS)},
        {"name": "states", "datatype": "FP32", "shape": ["batch", "seq", 8]},
    ]
    assert manifest["files"]["model.onnx"]["sha256"] == sha256(version / "model.onnx")
    assert manifest["source"]["reference"] == "zoo.py:Words"
    assert manifest["source"]["weights_sha256"] == sha256(directory / "words.safetensors")
    assert {"batch": 2, "seq": 20} in [entry["point"] for entry in manifest["verification"]]
    assert manifest["sizes"] == {"batch": {"min": 1, "max": 32, "step": 1}, "seq": {"min": 1, "max": 20, "step": 1}}


def test_golden_outputs_are_what_pytorch_gives(version: Path, directory: Path) -> None:
    model = zoo.Words(layers=2).eval()
    model.load_state_dict(load_file(directory / "words.safetensors"))
    samples = reference.read_golden(version / "golden.npz")
    assert len(samples) == 2
    assert max(sample.point.sizes["batch"] for sample in samples) >= 2
    for sample in samples:
        with torch.inference_mode():
            answer = model(torch.from_numpy(sample.inputs["ids"]))
        for name, expected in sample.outputs.items():
            np.testing.assert_allclose(answer[name].numpy(), expected, atol=1e-6)


def test_the_configuration_describes_the_model(version: Path) -> None:
    config = modelconfig.from_text((version.parent / "config.pbtxt").read_text())
    assert config.max_batch_size == 32
    assert tensors(config) == [
        ("ids", [-1]),
        ("scores", [3]),
        ("states", [-1, 8]),
    ]
    assert (version.parent / config.output[0].label_filename).read_text().split() == list(LABELS)


def test_no_published_file_contains_paths_of_this_machine(version: Path) -> None:
    for file in version.iterdir():
        content = file.read_bytes()
        for path in (Path(ZOO).parent, Path(torch.__file__).parent, Path.home(), version.parent):
            assert str(path).encode() not in content, (file, path)


@pytest.mark.slow
def test_what_publishing_would_refuse_is_refused_before_the_export(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 19]> double (float[N, 4] x) => (float[N, 4] y) '
                                      "{ y = Add(x, x) }"), tmp_path / "double.onnx")  # fmt: skip
    source, config = str(tmp_path / "double.onnx"), tmp_path / "models/double/config.pbtxt"
    (tmp_path / "classes").write_text("good\nbad\n")
    labelled = export(tmp_path / "models", "double", source, "--labels", str(tmp_path / "classes"))
    config.parent.mkdir(parents=True)
    config.write_text("max_batch_size: 64")
    larger = export(tmp_path / "models", "double", source)
    for result, complaint in ((labelled, "2 labels fit 0 outputs, not one"), (larger, "up to 32 rows, not 64")):
        assert complaint in result.stderr
        assert "Copying" not in result.stdout


@pytest.mark.slow
def test_an_lstm_exports_a_second_time_and_leaves_the_first_version(directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    config = (copy / "models/words/config.pbtxt").read_bytes()
    result = export_words(copy, "--version", "2")
    assert result.exit_code == 0, result.output
    one, two = (copy / "models/words" / number / "model.onnx" for number in "12")
    assert sha256(one) == sha256(two)
    assert (copy / "models/words/config.pbtxt").read_bytes() == config


def test_the_report_and_the_file_itself_say_what_was_proven(version: Path) -> None:
    assert "- proven for batch 1..32, seq 1..20" in (version / "verification.md").read_text()
    assert json.loads((version / "verification.json").read_text())["exporter"] == "dynamo"
    metadata = {entry.key: entry.value for entry in onnx.load(version / "model.onnx").metadata_props}
    assert metadata["turnout.sizes"] == "batch=1..32 seq=1..20"
    assert json.loads(metadata["turnout.labels"]) == list(LABELS)


@pytest.mark.slow
def test_a_branch_on_a_size_that_is_not_usually_tried_is_found_and_refused(tmp_path: Path) -> None:
    result = export(
        tmp_path / "models", "branch", f"{ZOO}:RareBranch", "--input", "x=float32[batch,4]@3:4", "--exporter", "dynamo"
    )
    assert result.exit_code == 1
    assert "at batch=17, output 'output' differs by" in result.stderr
    assert re.search(r"for x\[(\d+)\] = \[3\.", result.stderr)
    assert "The model was exported at batch=2; a Python `if`" in result.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_decision_by_a_value_is_refused_with_its_line_instead_of_being_kept(tmp_path: Path) -> None:
    result = export(tmp_path / "models", "value", f"{ZOO}:ByValue", "--input", "x=float32[batch,4]")
    assert result.exit_code == 1
    assert re.search(r"decides by a value of a tensor \(zoo\.py:\d+, if x\.max\(\) > 100:\)", result.stderr)
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_packed_lstm_is_exported_by_the_second_exporter_for_rows_of_all_lengths(tmp_path: Path) -> None:
    result = export(tmp_path, "packed", f"{ZOO}:Packed", "--task", "text-classification", "--range", "seq=1..40")
    assert result.exit_code == 0, result.output
    assert "! torch.onnx failed, so torch's TorchScript exporter is tried" in result.stdout
    manifest = json.loads((tmp_path / "packed/1/model.json").read_text())
    assert (manifest["exporter"], manifest["batch_axis"]) == ("torchscript", 0)
    assert manifest["inputs"][1] == {
        "name": "lengths", "datatype": "INT64", "shape": ["batch"], "kind": "lengths", "limit": "<=seq"
    }  # fmt: skip
    (lengths,) = {
        tuple(sample.inputs["lengths"]) for sample in reference.read_golden(tmp_path / "packed/1/golden.npz")
        if sample.point.sizes["batch"] > 1
    }  # fmt: skip
    assert min(lengths) < max(lengths)


@pytest.mark.slow
def test_a_decision_that_only_the_second_exporter_meets_is_refused_unless_that_one_is_asked_for(tmp_path: Path) -> None:
    arguments = f"{ZOO}:PackedByValue", "--task", "text-classification", "--range", "seq=1..9"
    result = export(tmp_path / "models", "packed", *arguments)
    assert result.exit_code == 1
    assert re.search(r"decides by a value of a tensor \(zoo\.py:\d+, if scores\.abs\(\)\.max\(\) > 100:\)", result.stderr)
    result = export(tmp_path / "models", "packed", *arguments, "--exporter", "torchscript")
    assert result.exit_code == 0, result.output
    assert "! forward reads a value of a tensor (zoo.py:" in result.stdout


@pytest.mark.slow
def test_a_model_whose_weights_and_buffers_change_is_published_with_the_first_ones(tmp_path: Path) -> None:
    result = export(tmp_path, "changing", f"{ZOO}:Changing", "--input", "ids=int64[batch,seq]@0:20", "--range", "seq=1..9")
    assert result.exit_code == 0, result.output
    for what in ("the weight 'table.weight'", "the buffer 'calls'"):
        assert f"! forward changes {what}: the published model always has its first value" in result.stdout


@pytest.mark.slow
def test_a_model_that_is_never_the_same_is_refused_before_the_export(tmp_path: Path) -> None:
    result = export(tmp_path / "models", "noise", f"{ZOO}:Noisy", "--input", "x=float32[batch,4]")
    assert result.exit_code == 1
    assert "draws random numbers (aten.randn_like in Noisy)" in result.stderr
    assert "Exporting" not in result.stdout


@pytest.mark.slow
def test_a_program_is_exported_by_its_own_inputs_and_published_in_three_precisions(tmp_path: Path) -> None:
    program = torch.export.export(
        zoo.Linear().eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("rows", max=12)},), strict=False
    )
    torch.export.save(program, tmp_path / "linear.pt2")
    (tmp_path / "judge.py").write_text(JUDGE)
    result = export(
        tmp_path / "models", "linear", str(tmp_path / "linear.pt2"), "--variant", "fp16", "--variant", "int8",
        "--metric", f"{tmp_path / 'judge.py'}:width",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "inputs   x FP32[batch,4]" in result.stdout
    assert "batch    up to 12 rows run together" in result.stdout
    files = json.loads((tmp_path / "models/linear/1/model.json").read_text())["files"]
    assert (files["model.fp16.onnx"]["precision"], files["model.fp16.onnx"]["metric"]) == ("fp16", {"width": 3.0})
    left_out = json.loads((tmp_path / "models/linear/1/verification.json").read_text())["left_out"]
    assert ("model.int8.onnx" in files) is ("int8" not in left_out)  # so small a model may be slower
    config = modelconfig.from_text((tmp_path / "models/linear/config.pbtxt").read_text())
    assert config.parameters["turnout.variants"].string_value.split(", ") == [name for name in files if name != "model.onnx"]


JUDGE = """
import numpy as np

def width(predict):
    return {"width": predict({"x": np.ones((5, 4), "float32")})["output"].shape[1]}
"""


@pytest.mark.slow
def test_an_onnx_file_is_adopted_with_a_reference_of_the_users(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 19]> double (float[N, 4] x) => (float[?, ?] y) { y = Add(x, x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "double.onnx")
    (tmp_path / "truth.py").write_text("def twice(inputs):\n    return inputs['x'].astype('float64') * 2\n"
                                       "def thrice(inputs):\n    return {'y': inputs['x'] * 3}\n")  # fmt: skip
    source, truth = str(tmp_path / "double.onnx"), tmp_path / "truth.py"
    result = export(tmp_path / "models", "double", source, "--reference", f"{truth}:twice")
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "models/double/1/model.json").read_text())
    assert (manifest["exporter"], manifest["opset"]) == ("adopted", 19)
    assert manifest["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["batch", 4]}]
    config = tmp_path / "models/double/config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 32", "max_batch_size: 16"))
    result = export(tmp_path / "models", "double", source, "--version", "2")
    assert "batch    up to 16 rows run together" in result.stdout
    result = export(tmp_path / "models", "wrong", source, "--reference", f"{truth}:thrice")
    assert result.exit_code == 1
    assert "thrice differ at 4 of 4 points" in result.stderr
    assert "They differ at every point: the converter computes something else there" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_the_export_and_leaves_neither_files_nor_processes(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    command = [sys.executable, "-m", "turnout_exporter", f"{ZOO}:Endless", "--name", "endless"]
    with subprocess.Popen(
        [*command, "--repository", str(tmp_path / "models"), "--input", "x=float32[batch,4]"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as exporter:  # fmt: skip
        assert exporter.stdout is not None
        assert exporter.stderr is not None
        assert exporter.stdout.readline().startswith("✓ Building")
        (child,) = psutil.Process(exporter.pid).children()
        exporter.send_signal(number)
        assert exporter.wait(20) == exit_code
        assert exporter.stderr.read().strip() == f"interrupted by {number.name}: nothing was published"
    assert not child.is_running()
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_model_with_an_output_without_a_batch_axis_is_published_unbatched(tmp_path: Path) -> None:
    result = export(
        tmp_path, "pooled", f"{ZOO}:Pooled", "--input", "left=float32[batch,4]", "--input", "right=float32[batch,4]"
    )
    assert result.exit_code == 0, result.output
    config = modelconfig.from_text((tmp_path / "pooled/config.pbtxt").read_text())
    assert config.max_batch_size == 0
    assert tensors(config) == [
        ("left", [-1, 4]),
        ("right", [-1, 4]),
        ("output_0", [-1, 4]),
        ("output_1_mean", [4]),
    ]
    assert json.loads((tmp_path / "pooled/1/model.json").read_text())["batch_axis"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        ("broken", "zoo.py:broken() raised ValueError: no [such] layer"),
        ("not_a_model", "made a str, not a torch.nn.Module"),
    ],
)
def test_a_factory_that_returns_no_model_gives_one_message(tmp_path: Path, factory: str, complaint: str) -> None:
    result = export(tmp_path / "models", "x", f"{ZOO}:{factory}", "--input", "x=float32[batch,4]")
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "models").exists()
