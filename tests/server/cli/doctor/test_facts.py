"""The facts that are read from fake machines, which are made of files."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from turnout_server.cli.doctor import facts
from turnout_server.cli.doctor.facts import Facts, Machine
from turnout_server.cli.doctor.nvidia import Access, Gpu

GIB = 2**30
OPEN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (a@b)  Sun Jul 27\n"
CLOSED_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"


class NVMLError(Exception):
    pass


@dataclass
class Nvml:
    """One GPU with 80 GiB; `trouble` is the error of nvmlInit; `unsupported` names the functions that fail."""

    trouble: str = ""
    unsupported: tuple[str, ...] = ()
    NVMLError: type[Exception] = NVMLError
    answers: dict[str, Any] = field(
        default_factory=lambda: {
            "nvmlDeviceGetName": "NVIDIA A100",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB),
            "nvmlDeviceGetMigMode": [1, 1],
            "nvmlDeviceGetComputeMode": 3,
        }
    )
    running: bool = False

    def nvmlInit(self) -> None:
        if self.trouble:
            raise NVMLError(self.trouble)
        self.running = True

    def nvmlShutdown(self) -> None:
        self.running = False

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12040

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def __getattr__(self, function: str) -> Callable[[int], Any]:
        def answer(handle: int) -> Any:
            if function in self.unsupported:
                raise NVMLError("Not Supported")
            return self.answers[function]

        return answer


def not_installed(name: str) -> Distribution:
    raise PackageNotFoundError(name)


def no_nvml() -> Any:
    raise ImportError("No module named 'pynvml'")


class Disk:
    """A directory that stands for the whole file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU\nprocessor\t: 1\nmodel name\t: A CPU\n")
        self.write("proc/meminfo", "MemTotal:       24684084 kB\nMemFree: 1 kB\n")

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def wheel(self, name: str, version: str, cuda: str = "") -> Callable[[str], Distribution]:
        """Installs a wheel; returns a function that finds distributions."""
        self.write(
            f"site/{name.replace('-', '_')}-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        )
        built = f"package_name = '{name}'\n__version__ = '{version}'\n" + (f"cuda_version = '{cuda}'\n" if cuda else "")
        self.write("site/onnxruntime/capi/build_and_package_info.py", built)

        def find(wanted: str) -> Distribution:
            for found in Distribution.discover(name=wanted, path=[str(self.root / "site")]):
                return found
            raise PackageNotFoundError(wanted)

        return find

    def read(self, nvml: Callable[[], Any] = no_nvml, **changes: Any) -> Facts:
        """The facts of this fake machine only."""
        access = Access(
            nvml,
            open_file=changes.pop("open_file", lambda path: None),
            linker_cache=changes.pop("linker_cache", str),
            path=[str(self.root / "site"), str(self.root / "other")],
        )
        machine = {"providers": tuple, "environ": {}, "cores": 2, "affinity": frozenset({0, 1}), "distribution": not_installed}
        return facts.read(Machine(**{**machine, **changes}, root=self.root, nvidia=access))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_machine_without_gpu_is_its_cores_and_its_memory(disk: Disk) -> None:
    disk.write("proc/self/cgroup", "0::/\n")
    disk.write("sys/fs/cgroup/cpu.max", "150000 100000\n")
    disk.write("sys/fs/cgroup/memory.max", str(4 * GIB))
    read = disk.read(distribution=disk.wheel("onnxruntime", "1.32.0"), providers=lambda: ("CPUExecutionProvider",))
    assert (read.host.cpu, read.host.cores, read.host.affinity) == ("A CPU", 2, (0, 1))
    assert (read.host.quota_cores, read.host.usable_cores) == (1.5, 2)
    assert (read.host.memory_bytes, read.host.memory_limit_bytes) == (24684084 * 1024, 4 * GIB)
    assert (read.runtime.name, read.runtime.cuda, read.runtime.usable) == ("onnxruntime 1.32.0", "", True)
    assert read.nvidia.libraries == ()
    assert not read.nvidia.loaded


def test_a_cpu_without_a_model_name_is_unknown(disk: Disk) -> None:
    disk.write("proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert disk.read().host.cpu == "unknown"


def test_two_wheels_and_a_failing_import_are_recorded(disk: Disk) -> None:
    def broken() -> tuple[str, ...]:
        raise ImportError("cannot import name 'capi'")

    disk.wheel("onnxruntime", "1.32.0")
    runtime = disk.read(distribution=disk.wheel("onnxruntime-gpu", "1.31.1", "13.0"), providers=broken).runtime
    assert runtime.wheels == {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    assert (runtime.cuda, runtime.problem, runtime.usable) == ("13.0", "cannot import name 'capi'", False)


@pytest.mark.parametrize(("value", "off"), [("1", True), ("0", False), (None, False)])
def test_telemetry_is_off_only_if_the_variable_is_1(disk: Disk, value: str | None, off: bool) -> None:
    environ = {} if value is None else {"ORT_DISABLE_TELEMETRY": value}
    assert disk.read(environ=environ).runtime.telemetry_off is off


@pytest.mark.parametrize(
    ("text", "driver", "cuda"), [(OPEN_DRIVER, "580.65.06", "13"), (CLOSED_DRIVER, "550.54.15", "12"), ("?", "", "")]
)
def test_the_version_of_the_driver_gives_the_newest_cuda_it_supports(disk: Disk, text: str, driver: str, cuda: str) -> None:
    disk.write("proc/driver/nvidia/version", text)
    nvidia = disk.read().nvidia
    assert (nvidia.loaded, nvidia.driver, nvidia.cuda) == (True, driver, cuda)
    assert nvidia.nvml == "nvidia-ml-py is not installed"


def test_nvml_describes_the_gpus_and_is_closed_again(disk: Disk) -> None:
    disk.write("proc/driver/nvidia/version", CLOSED_DRIVER)
    nvml = Nvml()
    nvidia = disk.read(lambda: nvml).nvidia
    assert (nvidia.cuda, nvidia.nvml) == ("12.4", "")
    assert nvidia.gpus == (Gpu(0, "NVIDIA A100", 80 * GIB, True, "exclusive-process"),)
    assert not nvml.running


def test_values_that_a_gpu_does_not_support_are_unknown(disk: Disk) -> None:
    disk.write("proc/driver/nvidia/version", CLOSED_DRIVER)
    nvml = Nvml(unsupported=("nvmlDeviceGetMigMode", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeMode"))
    assert disk.read(lambda: nvml).nvidia.gpus == (Gpu(0, "NVIDIA A100", None, False, "default"),)


def test_the_reason_why_nvml_does_not_start_is_kept(disk: Disk) -> None:
    disk.write("proc/driver/nvidia/version", CLOSED_DRIVER)
    nvidia = disk.read(lambda: Nvml(trouble="Driver/library version mismatch")).nvidia
    assert (nvidia.gpus, nvidia.nvml) == ((), "Driver/library version mismatch")


def test_device_files_are_opened_and_their_errors_named(disk: Disk) -> None:
    def refuse_gpus(path: Path) -> None:
        if path.name == "nvidia0":
            raise PermissionError(errno.EACCES, "Permission denied")

    disk.write("dev/nvidiactl")
    disk.write("dev/nvidia0")
    nvidia = disk.read(open_file=refuse_gpus).nvidia
    assert [(file.path, file.problem) for file in nvidia.device_files] == [("/dev/nvidiactl", ""), ("/dev/nvidia0", "EACCES")]
    assert nvidia.count == 1


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 2), ("", 0), ("-1", 0), ("0", 1), ("1,0", 2), ("0,-1,1", 1), ("MIG-a,MIG-b,MIG-c", 3)]
)
def test_cuda_visible_devices_limits_the_expected_number_of_gpus(disk: Disk, visible: str | None, count: int) -> None:
    for name in ("nvidiactl", "nvidia0", "nvidia1"):
        disk.write(f"dev/{name}")
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert disk.read(environ=environ).nvidia.count == count


def test_libraries_are_found_where_they_would_be_loaded_from(disk: Disk) -> None:
    wheel = disk.write("site/nvidia/cu13/lib/libcudart.so.13")
    elsewhere = disk.write("other/nvidia/cudnn/lib/libcudnn.so.9")
    named = disk.write("opt/cuda/lib64/libcublas.so.13")
    usual = disk.write("usr/lib64/libcuda.so.1")
    disk.write("usr/local/cuda/lib64/libcudnn.so.8")
    names = ("libcublasLt.so.13", "libcudart.so.13")
    cache = "2 libs found in cache\n" + "".join(f"\t{name} (libc6,x86-64) => /cached/{name}\n" for name in names)
    read = disk.read(
        distribution=disk.wheel("onnxruntime-gpu", "1.31.1", "13.0"),
        environ={"LD_LIBRARY_PATH": f":{named.parent}"},
        linker_cache=lambda: cache,
    )
    found = {library.file: library.found for library in read.nvidia.libraries}
    assert found == {
        "libcuda.so.1": str(usual),
        "libcudart.so.13": str(wheel),
        "libcublas.so.13": str(named),
        "libcublasLt.so.13": "/cached/libcublasLt.so.13",
        "libcurand.so.10": "",
        "libcufft.so.12": "",
        "libcudnn.so.9": str(elsewhere),
    }
    assert read.nvidia.libraries[-1].others == ("libcudnn.so.8",)
