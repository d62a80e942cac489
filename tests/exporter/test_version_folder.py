import json
from pathlib import Path
from typing import Any

import pytest
from turnout_exporter.errors import PublishError
from turnout_exporter.repository.manifest import sha256
from turnout_exporter.version_folder import VersionFolder


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "toy" / "1"
    folder.mkdir(parents=True)
    for name in ("model.onnx", "model.int8.onnx", "model.onnx.data"):
        (folder / name).write_bytes(name.encode())
    entries: dict[str, Any] = {
        name: {"sha256": sha256(folder / name)} for name in ("model.onnx", "model.int8.onnx", "model.onnx.data")
    }
    entries["model.int8.onnx"]["tolerance"] = 0.06
    inputs = [
        {"name": "ids", "datatype": "INT64", "shape": ["batch", "seq"], "range": [0, 100]},
        {"name": "text", "datatype": "BYTES", "shape": ["batch", 1]},
    ]
    (folder / "model.json").write_text(json.dumps({"schema_version": 1, "files": entries, "inputs": inputs}))
    return folder


def test_a_version_is_found_by_its_own_folder_and_by_that_of_its_model(version: Path) -> None:
    assert VersionFolder.open(version).path == VersionFolder.open(version.parent).path == version


def test_one_of_several_versions_must_be_chosen(version: Path) -> None:
    (version.parent / "2").mkdir()
    (version.parent / "2" / "model.json").write_text("{}")
    with pytest.raises(PublishError, match=r"has no model.json; choose one of .*toy/1, .*toy/2"):
        VersionFolder.open(version.parent)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"has no model\.json$"):
        VersionFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("not JSON", "can't be read: JSONDecodeError"), ("{}", "can't be read: KeyError"), ("[]", "can't be read: TypeError"),
     ('{"schema_version": 1, "files": {}}', "can't be read: KeyError: 'inputs'"),
     ('{"schema_version": 1, "files": [], "inputs": []}', "can't be read: AttributeError"),
     ('{"schema_version": 1, "files": {"model.onnx": {}}, "inputs": []}', "can't be read: KeyError: 'sha256'"),
     ('{"schema_version": 1, "files": {}, "inputs": [{"name": "x", "datatype": "FP8", "shape": []}]}', "KeyError: 'FP8'"),
     ('{"schema_version": 9, "files": {}}', "by a newer exporter .schema 9")],
)  # fmt: skip
def test_a_manifest_that_cannot_be_used_is_refused_with_the_reason(version: Path, text: str, complaint: str) -> None:
    (version / "model.json").write_text(text)
    with pytest.raises(PublishError, match=complaint):
        VersionFolder.open(version)


def test_each_onnx_file_has_a_tolerance_and_inputs_read_as_specifications(version: Path) -> None:
    folder = VersionFolder.open(version)
    assert folder.models == {"model.onnx": 0.01, "model.int8.onnx": 0.06}
    assert folder.inputs == ["ids=int64[batch,seq]", "text=string[batch,1]"]


def test_changed_and_missing_files_are_named(version: Path) -> None:
    assert VersionFolder.open(version).changed_files() == []
    (version / "model.onnx").write_bytes(b"other")
    (version / "model.onnx.data").unlink()
    assert VersionFolder.open(version).changed_files() == [
        "model.onnx isn't the file that was published: its SHA-256 is another one",
        "model.onnx.data is missing",
    ]
