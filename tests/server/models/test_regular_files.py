import os
from collections.abc import Callable
from pathlib import Path

import pytest
from turnout_server.core.errors import FailedPrecondition
from turnout_server.models import config_pbtxt, files, manifest, verification
from turnout_server.models.regular_files import regular

CONFIG = 'output { name: "y" label_filename: "labels.txt" }'
READERS: dict[str, Callable[[Path], object]] = {
    "config.pbtxt": lambda directory: config_pbtxt.read(directory, "m"),
    "golden.npz": verification.golden,
    "labels.txt": lambda directory: config_pbtxt.read(directory, "m"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.pbtxt").write_text(CONFIG)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(FailedPrecondition, match=rf"{name} is not a regular file"):
        READERS[name](tmp_path)


def test_a_pipe_in_place_of_the_manifest_says_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.json")
    assert files.precision_of(tmp_path, "model.onnx") == "fp32"
    assert manifest.read(tmp_path) == manifest.Manifest()


def test_files_and_what_is_not_there_are_let_through(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        assert regular(tmp_path / name) == tmp_path / name
    with pytest.raises(FailedPrecondition):
        regular(tmp_path)
