"""The libraries that ONNX Runtime's CUDA provider needs, and where the wheels that carry them lie.

`onnxruntime.preload_dlls()` looks beside ONNX Runtime's own directory only. With `pip install --target`, a virtual environment
over a system's packages, or torch's own copies, the wheels lie in another directory of the path.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Needed(NamedTuple):
    """A library by its file name, and what runs only with it."""

    file: str
    purpose: str


_EVERYTHING = "everything on CUDA"
#: What the CUDA provider loads by CUDA's major version; dependencies come first. cuDNN is optional since ONNX Runtime 1.30: a
#: session opens without it, and fails at its first convolution.
NEEDED = {
    12: (
        Needed("libcudart.so.12", _EVERYTHING),
        Needed("libcublasLt.so.12", _EVERYTHING),
        Needed("libcublas.so.12", _EVERYTHING),
        Needed("libcurand.so.10", _EVERYTHING),
        Needed("libcufft.so.11", _EVERYTHING),
        Needed("libcudnn.so.9", "convolutions, recurrent layers and pooling"),
    ),
    13: (
        Needed("libcudart.so.13", _EVERYTHING),
        Needed("libcublasLt.so.13", _EVERYTHING),
        Needed("libcublas.so.13", _EVERYTHING),
        Needed("libcurand.so.10", _EVERYTHING),
        Needed("libcufft.so.12", _EVERYTHING),
        Needed("libcudnn.so.9", "convolutions, recurrent layers and pooling"),
    ),
}
#: Loaded first if there: the libraries above, and cuDNN's own parts, look for them.
_HELPERS = ("libnvJitLink.so.*", "libnvrtc.so.*")


def wheel_directories(path: Sequence[str] | None = None) -> list[Path]:
    """The directories of CUDA's wheels below every directory of Python's path, in its order.

    Args:
        path: where Python looks for packages; its own path if None.
    """
    found = (
        directory
        for entry in (sys.path if path is None else path)
        for directory in sorted(Path(entry or ".").glob("nvidia/*/lib"))
        if any(directory.glob("lib*.so.*"))
    )
    return list(dict.fromkeys(found))


def in_wheels(file: str, directories: Sequence[Path]) -> Path | None:
    """The first file of that name in these directories; None if there is none."""
    return next((directory / file for directory in directories if (directory / file).exists()), None)


@cache
def preload(cuda_major: int) -> tuple[str, ...]:
    """Loads the libraries that came as wheels into this process, where ONNX Runtime then finds them; returns their paths.

    What no wheel has is left to the linker's own search path.
    """
    directories = wheel_directories()
    loaded = []
    for library in (*_helpers(directories), *_needed(cuda_major, directories)):
        with suppress(OSError):  # the provider's own error says more
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            loaded.append(str(library))
    return tuple(loaded)


def _helpers(directories: Sequence[Path]) -> Iterator[Path]:
    for pattern in _HELPERS:
        yield from (file for directory in directories for file in sorted(directory.glob(pattern))[:1])


def _needed(cuda_major: int, directories: Sequence[Path]) -> Iterator[Path]:
    for needed in NEEDED.get(cuda_major, NEEDED[13]):
        if (file := in_wheels(needed.file, directories)) is not None:
            yield file
