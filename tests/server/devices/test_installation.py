"""ONNX Runtime's wheels in directories made up for it."""

from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import pytest
from turnout_server.core.errors import FailedPrecondition
from turnout_server.devices import installation


class Places:
    """Directories with wheels, in the order in which Python looks into them."""

    def __init__(self, root: Path, **directories: list[str]) -> None:
        self.path = [str(root / name) for name in directories]
        for directory, names in directories.items():
            for name in names:
                folder = root / directory / f"{name.replace('-', '_')}-1.0.dist-info"
                folder.mkdir(parents=True)
                (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")

    def find(self, wanted: str) -> Distribution:
        for found in Distribution.discover(name=wanted, path=self.path):
            return found
        raise PackageNotFoundError(wanted)

    def installed(self) -> list[str]:
        return list(installation.installed(self.find, self.path))


def test_two_wheels_in_one_directory_are_both_told_because_they_overwrite_each_other(tmp_path: Path) -> None:
    assert Places(tmp_path, site=["onnxruntime", "onnxruntime-gpu", "numpy"]).installed() == ["onnxruntime", "onnxruntime-gpu"]


def test_of_wheels_in_different_directories_the_first_on_the_path_is_the_one(tmp_path: Path) -> None:
    assert Places(tmp_path / "a", target=["onnxruntime-gpu"], site=["onnxruntime"]).installed() == ["onnxruntime-gpu"]
    assert Places(tmp_path / "b", site=["onnxruntime"], target=["onnxruntime-gpu"]).installed() == ["onnxruntime"]


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert Places(tmp_path, site=["numpy"]).installed() == []


def test_a_server_does_not_start_on_wheels_that_overwrote_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Places(tmp_path, site=["onnxruntime", "onnxruntime-gpu"])
    installation.check_installation()  # on this machine there is one
    found = dict.fromkeys(made.installed())
    monkeypatch.setattr(installation, "installed", lambda: found)
    with pytest.raises(FailedPrecondition, match="run: pip uninstall -y onnxruntime onnxruntime-gpu && pip install"):
        installation.check_installation()
