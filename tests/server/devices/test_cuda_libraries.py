import ctypes
from pathlib import Path

import pytest
from turnout_server.devices.cuda_libraries import NEEDED, in_wheels, preload, wheel_directories


def install(directory: Path, package: str, *files: str) -> Path:
    lib = directory / "nvidia" / package / "lib"
    lib.mkdir(parents=True)
    for file in files:
        (lib / file).touch()
    return lib


def test_wheels_are_found_in_every_directory_of_the_path_in_its_order(tmp_path: Path) -> None:
    first = install(tmp_path / "target", "cu13", "libcudart.so.13")
    second = install(tmp_path / "venv", "cudnn", "libcudnn.so.9")
    torchs = install(tmp_path / "venv", "cu13", "libcudart.so.13")
    install(tmp_path / "venv", "empty")
    path = [str(tmp_path / name) for name in ("target", "missing", "venv", "target")]
    directories = wheel_directories(path)
    assert directories == [first, torchs, second]
    assert in_wheels("libcudart.so.13", directories) == first / "libcudart.so.13"
    assert in_wheels("libcudnn.so.9", directories) == second / "libcudnn.so.9"
    assert in_wheels("libcublas.so.13", directories) is None


@pytest.mark.parametrize("major", sorted(NEEDED))
def test_libraries_come_after_those_that_they_depend_on(major: int) -> None:
    files = [needed.file.partition(".")[0] for needed in NEEDED[major]]
    assert files.index("libcudart") < files.index("libcublasLt") < files.index("libcublas") < files.index("libcudnn")


def test_what_is_in_wheels_is_loaded_for_everybody_and_the_rest_is_left_to_the_linker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = install(tmp_path, "cu13", "libcublas.so.13", "libnvrtc.so.13")
    cudnn = install(tmp_path, "cudnn", "libcudnn.so.9")
    opened: list[str] = []

    def load(path: str, mode: int) -> None:
        opened.append(path)
        if path.endswith("libcublas.so.13"):
            raise OSError("it is no library")

    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr(ctypes, "CDLL", load)
    preload.cache_clear()
    try:
        assert preload(13) == (str(lib / "libnvrtc.so.13"), str(cudnn / "libcudnn.so.9"))
    finally:
        preload.cache_clear()
    assert opened == [str(lib / "libnvrtc.so.13"), str(lib / "libcublas.so.13"), str(cudnn / "libcudnn.so.9")]
