"""What there is of NVIDIA's: driver, GPUs, device files and libraries. Nothing is loaded but NVML, which only reads."""

import errno
import importlib
import os
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turnout_server.devices import installation
from turnout_server.devices.discovery import MAX_GPUS, visible_gpus

#: What the CUDA provider loads by CUDA's major version; the names' last part is each library's own major version.
_LIBRARIES = {
    12: "libcudart.so.12 libcublas.so.12 libcublasLt.so.12 libcurand.so.10 libcufft.so.11 libcudnn.so.9",
    13: "libcudart.so.13 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libcufft.so.12 libcudnn.so.9",
}
#: Where the driver's own library lies, and those that CUDA's installer puts there, if the linker's cache doesn't know them.
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
        mig: whether it is cut into instances.
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
        found: where; empty if nowhere.
        others: files of the same library in another major version.
    """

    file: str
    found: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Nvidia:
    """All of it.

    Attributes:
        loaded: whether the kernel has a driver.
        driver: its version; empty if unknown.
        cuda: the newest CUDA version that the driver supports; empty if unknown.
        nvml: why NVML could not be asked; empty if it could.
        libraries: those that the installed ONNX Runtime needs; none where it is built without CUDA.
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
        """How many GPUs this process was given."""
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


def _beside_onnxruntime() -> Path:
    """Where ONNX Runtime looks for the wheels of CUDA's libraries: in the directory that it was itself installed into."""
    homes = [installation.home_of(wheel) for wheel in installation.installed().values()]
    return homes[0] if homes else Path(sysconfig.get_path("platlib"))


@dataclass(frozen=True)
class Access:
    """The ways to the driver that don't lead through files below the root.

    Attributes:
        nvml: the module `pynvml`, or ImportError.
        open_file: opens a device file and closes it again, or OSError.
        linker_cache: what `ldconfig -p` prints.
        site_packages: below it lie the wheels with CUDA's libraries.
    """

    nvml: Callable[[], Any] = lambda: importlib.import_module("pynvml")
    open_file: Callable[[Path], None] = _open
    linker_cache: Callable[[], str] = _linker_cache
    site_packages: Path = field(default_factory=_beside_onnxruntime)


def read(root: Path, environ: Mapping[str, str], built_for: str, access: Access) -> Nvidia:
    """Everything of NVIDIA's.

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
    """The newest major version of CUDA that a driver supports, by the first part of its own."""
    branch = int(driver.partition(".")[0] or 0)
    return next((cuda for cuda, first in (("13", 580), ("12", 525), ("11", 450)) if branch >= first), "")


def _ask_nvml(load: Callable[[], Any]) -> tuple[str, tuple[Gpu, ...], str]:
    """The newest CUDA version that the driver supports, the GPUs, and why neither is known, if so."""
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
    def ask(question: str) -> Any:
        """The answer; None where this kind of GPU has none."""
        with suppress(nvml.NVMLError):
            return getattr(nvml, question)(handle)
        return None

    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory, mig = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetMigMode")
    return Gpu(
        number=index,
        name=ask("nvmlDeviceGetName") or "unknown",
        memory_bytes=memory and memory.total,
        mig=bool(mig and mig[0]),
        compute_mode=_COMPUTE_MODES.get(ask("nvmlDeviceGetComputeMode") or 0, "unknown"),
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
    for name in ["libcuda.so.1", *_LIBRARIES.get(int(built_for.partition(".")[0]), "").split()]:
        stem = name.partition(".so")[0]
        others = {file.name for file in files if re.fullmatch(rf"{stem}\.so\.\d+", file.name)} - {name}
        yield Library(name, next((str(file) for file in files if file.name == name), ""), tuple(sorted(others)))


def _candidates(root: Path, environ: Mapping[str, str], access: Access) -> list[Path]:
    """Every library there is, in the order in which ONNX Runtime and the linker look."""
    wheels = sorted(access.site_packages.glob("nvidia/*/lib"))
    named = [Path(name) for name in environ.get("LD_LIBRARY_PATH", "").split(":") if name]
    cached = [Path(name) for name in re.findall(r"=> (\S+)", access.linker_cache())]
    usual = [root / name for name in _USUAL]
    return [*_in(wheels), *_in(named), *cached, *_in(usual)]


def _in(directories: list[Path]) -> list[Path]:
    return [file for directory in directories for file in sorted(directory.glob("lib*.so.*"))]
