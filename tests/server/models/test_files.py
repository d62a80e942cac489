"""The layout of a repository, Triton's or one bare model as KServe mounts it; the precision and size of files."""

import json
import os
from pathlib import Path

import pytest
from turnout_server.core.errors import FailedPrecondition
from turnout_server.models.files import find_models, precision_of, weight_bytes


def touch(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_models_are_directories_and_versions_are_positive_numbers(tmp_path: Path) -> None:
    for version in ("1", "12", "01", "0", "-1", "x", "²"):
        touch(tmp_path / "model" / version / "model.onnx")
    (tmp_path / "empty").mkdir()
    touch(tmp_path / ".hidden" / "1" / "model.onnx")
    touch(tmp_path / "README.md")
    found = find_models(tmp_path, "")
    assert {name: sorted(files.versions) for name, files in found.items()} == {"empty": [], "model": [1, 12]}
    assert found["model"].versions[12] == tmp_path / "model" / "12"


def test_a_bare_file_is_version_one_of_the_model_named(tmp_path: Path) -> None:
    touch(tmp_path / "model.onnx")
    assert find_models(tmp_path, "m")["m"].versions == {1: tmp_path}


def test_bare_version_directories_are_those_of_the_model_named(tmp_path: Path) -> None:
    touch(tmp_path / "3" / "model.onnx")
    assert find_models(tmp_path, "m")["m"].versions == {3: tmp_path / "3"}


@pytest.mark.parametrize("file", ["model.onnx", "1/model.onnx"])
def test_a_bare_model_without_a_name_is_refused_with_the_flag(tmp_path: Path, file: str) -> None:
    touch(tmp_path / file)
    with pytest.raises(FailedPrecondition, match="--model-name"):
        find_models(tmp_path, "")


def test_a_name_for_a_directory_of_models_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "model" / "1" / "model.onnx")
    with pytest.raises(FailedPrecondition, match="--model-name is given"):
        find_models(tmp_path, "m")


def test_the_fingerprint_changes_with_every_file_of_the_model(tmp_path: Path) -> None:
    seen = []

    def look() -> None:
        seen.append(find_models(tmp_path, "")["m"].fingerprint())

    touch(tmp_path / "m" / "1" / "model.onnx")
    look()
    touch(tmp_path / "m" / "config.pbtxt")
    look()
    weights = touch(tmp_path / "m" / "1" / "weights.bin")
    look()
    os.utime(weights, ns=(1, 1))
    look()
    touch(tmp_path / "m" / "2" / "model.onnx")
    look()
    assert len(set(seen)) == len(seen)
    look()
    assert seen[-1] == seen[-2]


@pytest.mark.parametrize(
    ("file", "precision"),
    [
        ("model.onnx", "fp32"),
        ("model.fp16.onnx", "fp16"),
        ("model.int8.onnx", "int8"),
        ("model..onnx", "fp32"),
        ("other.fp16.onnx", "fp32"),
        ("model.fp16.onnx.data", "fp32"),
        ("model", "fp32"),
    ],
)
def test_without_a_manifest_the_file_name_gives_the_precision(tmp_path: Path, file: str, precision: str) -> None:
    assert precision_of(tmp_path, file) == precision


def test_the_manifest_overrides_the_file_name_for_the_files_it_lists(tmp_path: Path) -> None:
    files = {"model.onnx": {"precision": "bf16"}, "model.fp16.onnx": {"sha256": "..."}}
    (tmp_path / "model.json").write_text(json.dumps({"schema_version": 1, "files": files}))
    assert precision_of(tmp_path, "model.onnx") == "bf16"
    assert precision_of(tmp_path, "model.fp16.onnx") == "fp16"
    assert precision_of(tmp_path, "model.int8.onnx") == "int8"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"5",
        b'"files"',
        b'{"files": null}',
        b'{"files": []}',
        b'{"files": {"model.fp16.onnx": 5}}',
        b'{"files": {"model.fp16.onnx": []}}',
        b'{"files": {"model.fp16.onnx": {"precision": null}}}',
        b'{"files": {"model.fp16.onnx": {"precision": 16}}}',
        b'{"files": {"model.fp16.onnx": {"precision": ""}}}',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:40].decode(errors="replace"),
)
def test_an_invalid_manifest_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    assert precision_of(tmp_path, "model.fp16.onnx") == "fp16"


def test_an_unreadable_manifest_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    assert precision_of(tmp_path, "model.onnx") == "fp32"


def test_external_data_counts_if_the_model_names_it(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"....model.onnx.data....more/w.bin....")
    (tmp_path / "more").mkdir()
    for name, size in {
        "model.onnx.data": 1000,
        "more/w.bin": 500,
        "labels.txt": 7,
        "golden.npz": 9,
        "model.fp16.onnx": 11,
    }.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert weight_bytes(model) == model.stat().st_size + 1500


def test_a_missing_or_empty_file_has_no_weight(tmp_path: Path) -> None:
    assert weight_bytes(tmp_path / "nothing.onnx") == 0
    (tmp_path / "model.onnx").touch()
    (tmp_path / "labels.txt").touch()
    assert weight_bytes(tmp_path / "model.onnx") == 0
