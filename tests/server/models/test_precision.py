"""What a file computes with, from its manifest or its name."""

import json
from pathlib import Path

import pytest
from turnout_server.models.precision import precision_of


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
def test_without_a_manifest_the_name_says_it(tmp_path: Path, file: str, precision: str) -> None:
    assert precision_of(tmp_path, file) == precision


def test_the_manifest_goes_before_the_name_for_the_files_that_it_has(tmp_path: Path) -> None:
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
def test_a_manifest_that_is_none_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    assert precision_of(tmp_path, "model.fp16.onnx") == "fp16"


def test_a_manifest_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    assert precision_of(tmp_path, "model.onnx") == "fp32"
