"""The NVIDIA driver, GPUs, device files and libraries of this machine. Loads only NVML, which only reads."""

import errno
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turnout_server.devices.cuda_libraries import NEEDED, Needed, wheel_directories
from turnout_server.devices.discovery import MAX_GPUS, visible_gpus

#: The usual directories of the driver's library and of CUDA's, for libraries that the linker's cache doesn't list.
_USUAL = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/local/cuda/lib64",
    "usr/local/nvidia/lib64",
)
#: NVML's compute modes by number.
_COMPUTE_MODES = {0: "default", 2: "prohibited", 3: "exclusive-process"}


@dataclass(frozen=True)
class DeviceFile:
    """A file such as /dev/nvidia0.

    Attributes:
        owner_group: the number of the group that owns it.
        problem: the name of the error, such as EACCES, with which opening it fails; empty if it opens.
    """

    path: str
    owner_group: int
    problem: str


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVML describes it.

    Attributes:
        mig: whether it is partitioned into MIG instances.
        compute_mode: `default`, `exclusive-process` or `prohibited`.
    """

    number: int
    name: str
    memory_bytes: int | None
    mig: bool
    compute_mode: str


@dataclass(frozen=True)
class Library:
    """A shared library that the CUDA provider needs.

    Attributes:
        found: its path; empty if it wasn't found.
        others: files of the same library in another major version.
        purpose: what doesn't run without it.
    """

    file: str
    found: str
    others: tuple[str, ...]
    purpose: str = "everything on CUDA"


@dataclass(frozen=True)
class Nvidia:
    """Everything that was found.

    Attributes:
        loaded: whether the kernel has a driver.
        driver: its version; empty if unknown.
        cuda: the newest CUDA version that the driver supports; empty if unknown.
        nvml: why NVML could not be asked; empty if it could.
        libraries: those that the installed ONNX Runtime needs; none if it was built without CUDA.
        visible: the variable CUDA_VISIBLE_DEVICES; None if it isn't set.
    """

    loaded: bool
    driver: str
    cuda: str
    nvml: str
    gpus: tuple[Gpu, ...]
    device_files: tuple[DeviceFile, ...]
    libraries: tuple[Library, ...]
    visible: str | None

    @property
    def present(self) -> int:
        """The number of GPUs that this process was given."""
        return len(self.gpus) or sum(file.path[-1].isdecimal() for file in self.device_files)

    @property
    def count(self) -> int:
        """How many of them CUDA should find."""
        return visible_gpus(self.present, self.visible)


def _open(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))


def _linker_cache() -> str:
    with suppress(OSError):
        return subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    return ""


@dataclass(frozen=True)
class Access:
    """Access to the driver, other than through files below the root.

    Attributes:
        nvml: returns the module `pynvml`, or raises ImportError.
        open_file: opens a device file and closes it again, or raises OSError.
        linker_cache: returns the output of `ldconfig -p`.
        path: where Python looks for packages, the wheels of CUDA's libraries among them.
    """

    nvml: Callable[[], Any] = lambda: importlib.import_module("pynvml")
    open_file: Callable[[Path], None] = _open
    linker_cache: Callable[[], str] = _linker_cache
    path: Sequence[str] = field(default_factory=lambda: sys.path)


def read(root: Path, environ: Mapping[str, str], built_for: str, access: Access) -> Nvidia:
    """Everything about NVIDIA on this machine.

    Args:
        built_for: the CUDA version that ONNX Runtime was built for; empty for none.
    """
    version_file = root / "proc/driver/nvidia/version"
    loaded = version_file.exists() or (root / "dev/nvidiactl").exists()
    driver = _driver_version(version_file)
    cuda, gpus, nvml = _ask_nvml(access.nvml) if loaded else ("", (), "no NVIDIA driver is loaded")
    return Nvidia(
        loaded=loaded,
        driver=driver,
        cuda=cuda or _cuda_of(driver),
        nvml=nvml,
        gpus=gpus,
        device_files=tuple(_device_files(root, access.open_file)) if loaded else (),
        libraries=tuple(_libraries(root, environ, built_for, access)),
        visible=environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _driver_version(file: Path) -> str:
    with suppress(OSError):
        if found := re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", file.read_text()):
            return found[1]
    return ""


def _cuda_of(driver: str) -> str:
    """The newest major version of CUDA that a driver supports, by its own major version."""
    branch = int(driver.partition(".")[0] or 0)
    return next((cuda for cuda, first in (("13", 580), ("12", 525), ("11", 450)) if branch >= first), "")


def _ask_nvml(load: Callable[[], Any]) -> tuple[str, tuple[Gpu, ...], str]:
    """The newest CUDA version that the driver supports, the GPUs, and why they are unknown; empty if they aren't."""
    try:
        nvml = load()
    except ImportError:
        return "", (), "nvidia-ml-py is not installed"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return "", (), str(error)
    try:
        number = nvml.nvmlSystemGetCudaDriverVersion()
        gpus = tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        return f"{number // 1000}.{number % 1000 // 10}", gpus, ""
    except nvml.NVMLError as error:
        return "", (), str(error)
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    def query(function: str) -> Any:
        """The result of an NVML function; None if this GPU doesn't support it."""
        with suppress(nvml.NVMLError):
            return getattr(nvml, function)(handle)
        return None

    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory, mig = query("nvmlDeviceGetMemoryInfo"), query("nvmlDeviceGetMigMode")
    return Gpu(
        number=index,
        name=query("nvmlDeviceGetName") or "unknown",
        memory_bytes=memory and memory.total,
        mig=bool(mig and mig[0]),
        compute_mode=_COMPUTE_MODES.get(query("nvmlDeviceGetComputeMode") or 0, "unknown"),
    )


def _device_files(root: Path, open_file: Callable[[Path], None]) -> Iterator[DeviceFile]:
    names = [f"nvidia{number}" for number in range(MAX_GPUS)]
    for name in ("nvidiactl", "nvidia-uvm", *names):
        path = root / "dev" / name
        if path.exists():
            problem = ""
            try:
                open_file(path)
            except OSError as error:
                problem = errno.errorcode.get(error.errno or 0, str(error))
            yield DeviceFile(f"/dev/{name}", path.stat().st_gid, problem)


def _libraries(root: Path, environ: Mapping[str, str], built_for: str, access: Access) -> Iterator[Library]:
    if not built_for:
        return
    files = _candidates(root, environ, access)
    driver = Needed("libcuda.so.1", "everything on CUDA")
    for name, purpose in (driver, *NEEDED.get(int(built_for.partition(".")[0]), ())):
        stem = name.partition(".so")[0]
        others = {file.name for file in files if re.fullmatch(rf"{stem}\.so\.\d+", file.name)} - {name}
        found = next((str(file) for file in files if file.name == name), "")
        yield Library(name, found, tuple(sorted(others)), purpose)


def _candidates(root: Path, environ: Mapping[str, str], access: Access) -> list[Path]:
    """Every library file, in the search order of ONNX Runtime and the linker."""
    wheels = wheel_directories(access.path)
    named = [Path(name) for name in environ.get("LD_LIBRARY_PATH", "").split(":") if name]
    cached = [Path(name) for name in re.findall(r"=> (\S+)", access.linker_cache())]
    usual = [root / name for name in _USUAL]
    return [*_in(wheels), *_in(named), *cached, *_in(usual)]


def _in(directories: list[Path]) -> list[Path]:
    return [file for directory in directories for file in sorted(directory.glob("lib*.so.*"))]
