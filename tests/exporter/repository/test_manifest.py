import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from turnout_exporter.compare import Comparison
from turnout_exporter.repository import manifest
from turnout_exporter.repository.manifest import ModelFile
from turnout_exporter.repository.report import Report, proven
from turnout_exporter.spec.points import Limits
from turnout_exporter.spec.signature import Signature, TensorSpec

IDS = TensorSpec("ids", "INT64", ("batch", "seq"), (0, 100))
MASK = TensorSpec("mask", "INT64", ("batch", "seq"), kind="mask")
LENGTHS = TensorSpec("lengths", "INT64", ("batch",), kind="lengths", limit="<=seq")
LOGITS = TensorSpec("logits", "FP32", ("batch", 2), labels=("good", "bad"))
SIGNATURE = Signature([IDS, MASK, LENGTHS], [LOGITS])
LIMITS = {"batch": Limits(1, 32), "seq": Limits(8, 512, 8)}
SOURCE: dict[str, str | None] = {"reference": "zoo.py:Words", "git_commit": None, "weights_sha256": None}


def model_file(directory: Path, name: str, precision: str, error: float, **more: Any) -> ModelFile:
    (directory / name).write_bytes(precision.encode() * 100)
    allowed = 1e-4 if precision == "fp32" else float("inf")  # a variant's errors are judged together
    comparisons = [Comparison(f"batch={rows},seq=8", "logits", error, error, allowed) for rows in (2, 1)]
    return ModelFile(directory / name, precision, comparisons, **more)


@pytest.fixture
def two_files(tmp_path: Path) -> list[ModelFile]:
    return [
        model_file(tmp_path, "model.onnx", "fp32", 1e-6, metric={"accuracy": 0.9}),
        model_file(tmp_path, "model.int8.onnx", "int8", 0.03, metric={"accuracy": 0.89}, speedup=2.5),
    ]


def described(two_files: list[ModelFile]) -> dict[str, Any]:
    return manifest.describe(
        name="words", version=1, source=SOURCE, versions={"turnout": "0", "onnxruntime": "1"}, exporter="dynamo", opset=20,
        signature=SIGNATURE, limits=LIMITS, files=two_files, task="text-classification", preprocessing={"lower": True},
    )  # fmt: skip


def test_the_manifest_is_valid_and_says_sizes_values_and_each_files_tolerance(two_files: list[ModelFile]) -> None:
    content = described(two_files)
    jsonschema.validate(content, json.loads(files("turnout_exporter").joinpath("model.schema.json").read_text()))
    assert content["sizes"] == {"batch": {"min": 1, "max": 32, "step": 1}, "seq": {"min": 8, "max": 512, "step": 8}}
    assert [entry.get("kind") for entry in content["inputs"]] == [None, "mask", "lengths"]
    assert (content["inputs"][0]["range"], content["inputs"][2]["limit"]) == ([0, 100], "<=seq")
    assert {name: entry["tolerance"] for name, entry in content["files"].items()} == {
        "model.onnx": 0.01,
        "model.int8.onnx": 0.06,
    }
    assert content["files"]["model.int8.onnx"]["speedup_vs_fp32"] == 2.5
    assert content["verification"][0]["point"] == {"batch": 2, "seq": 8}


def test_external_data_belongs_to_its_file(tmp_path: Path) -> None:
    file = model_file(tmp_path, "model.onnx", "fp32", 1e-6)
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    assert [path.name for path in file.paths] == ["model.onnx", "model.onnx.data"]
    assert file.nbytes == 400 + 7


def test_the_file_says_itself_what_it_is() -> None:
    inside = manifest.embedded(
        source=SOURCE, versions={"torch": "2"}, labels=["a", "b"], preprocessing={"mean": [0.5]}, limits=LIMITS, task=""
    )
    assert inside["turnout.source.reference"] == "zoo.py:Words"
    assert json.loads(inside["turnout.labels"]) == ["a", "b"]
    assert json.loads(inside["turnout.preprocessing"]) == {"mean": [0.5]}
    assert inside["turnout.sizes"] == "batch=1..32 seq=8..512/8"
    assert "turnout.task" not in inside


def test_the_date_can_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert manifest.created() == "1970-01-01T00:00:00+00:00"


def test_the_report_tells_what_was_proven_and_why_something_is_missing(two_files: list[ModelFile]) -> None:
    report = Report(
        title="words, version 1", source="zoo.py:Words", exporter="torchscript", versions={"torch": "2"}, signature=SIGNATURE,
        limits=LIMITS, files=two_files, failures={"dynamo": "no such operator\nat line 3"}, notes=["use_cache is off"],
        left_out={"fp16": "it is wrong"}, methods={"model.int8.onnx": "dynamic"},
    )  # fmt: skip
    page = report.as_markdown()
    assert "- proven for batch 1..32, seq 8..512/8" in page
    assert "- dynamo failed: no such operator\n" in page
    assert "- note: use_cache is off" in page
    assert "- variant fp16 was left out: it is wrong" in page
    assert "| model.int8.onnx | int8 | 0.0004 MB | 3.0e-02 | 2.50x | accuracy 0.89 |" in page
    assert "| batch=2,seq=8 | logits | 1.0e-06 | 1.0e-06 | 1.0e-04 |" in page
    assert "| batch=2,seq=8 | logits | 3.0e-02 | 3.0e-02 | any |" in page
    content = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert content["files"]["model.int8.onnx"]["method"] == "dynamic"
    assert content["files"]["model.onnx"]["comparisons"][1]["point"] == "batch=1,seq=8"


def test_a_model_of_fixed_sizes_has_nothing_to_prove_about_them() -> None:
    assert proven({}) == ""
