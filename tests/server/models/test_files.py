"""Where models lie: Triton's layout, and a bare model as KServe mounts it."""

import os
from pathlib import Path

import pytest
from turnout_server.core.errors import FailedPrecondition
from turnout_server.models.files import find_models


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
