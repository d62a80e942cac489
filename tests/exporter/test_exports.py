"""Real exports in real processes; each takes seconds."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from turnout_exporter.cli import export_command
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


def test_golden_outputs_are_what_pytorch_gives(version: Path, directory: Path) -> None:
    model = zoo.Words(layers=2).eval()
    model.load_state_dict(load_file(directory / "words.safetensors"))
    samples = reference.read(version / "golden.npz")
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


def test_an_lstm_exports_a_second_time_and_leaves_the_first_version(directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(directory, tmp_path / "copy")
    config = (copy / "models/words/config.pbtxt").read_bytes()
    result = export_words(copy, "--version", "2")
    assert result.exit_code == 0, result.output
    one, two = (copy / "models/words" / number / "model.onnx" for number in "12")
    assert sha256(one) == sha256(two)
    assert (copy / "models/words/config.pbtxt").read_bytes() == config


def test_a_branch_on_the_shape_is_refused_with_the_point_and_the_difference(tmp_path: Path) -> None:
    result = export(tmp_path / "models", "branch", f"{ZOO}:Branch", "--input", "x=float32[batch,4]@3:4")
    assert result.exit_code == 1
    assert "differ at 2 of 4 points, so nothing was published" in result.stderr
    assert "at batch=7, output 'output' differs by" in result.stderr
    assert "(allowed 0.0008" in result.stderr
    assert not (tmp_path / "models").exists()


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
