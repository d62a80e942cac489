"""Fake machines: healthy ones, and the means to break them."""

from dataclasses import replace

from turnout_server.cli.doctor.checkup import Checkup, Tried
from turnout_server.cli.doctor.facts import Facts, Host, Runtime
from turnout_server.cli.doctor.nvidia import DeviceFile, Gpu, Library, Nvidia
from turnout_server.devices import device as devices

GIB = 2**30
HOST = Host("A CPU", 8, tuple(range(8)), None, 32 * GIB, None)
CPU_RUNTIME = Runtime({"onnxruntime": "1.32.0"}, "", ("CPUExecutionProvider",), "", True)
GPU_RUNTIME = Runtime({"onnxruntime-gpu": "1.31.1"}, "13.0", ("CUDAExecutionProvider", "CPUExecutionProvider"), "", True)
FILES = tuple(DeviceFile(f"/dev/{name}", 0, "") for name in ("nvidiactl", "nvidia-uvm", "nvidia0"))
GPU = Gpu(0, "A GPU", 80 * GIB, False, "default")
LIBRARIES = tuple(
    Library(name, f"/lib/{name}", ())
    for name in ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9")
)
NO_NVIDIA = Nvidia(False, "", "", "no NVIDIA driver is loaded", (), (), (), None)
NVIDIA = Nvidia(True, "580.65.06", "13.0", "", (GPU,), FILES, LIBRARIES, None)

CPU_WORKS = Tried(devices.cpu(), "", 0.01)
CUDA_WORKS = Tried(devices.cuda(0), "", 2.5)
CUDA_FAILS = Tried(devices.cuda(0), "CUDAExecutionProvider could not be set up", 2.5)

PLAIN = Checkup(Facts(HOST, CPU_RUNTIME, NO_NVIDIA), (CPU_WORKS,))
WITH_GPU = Checkup(Facts(HOST, GPU_RUNTIME, NVIDIA), (CPU_WORKS, CUDA_WORKS))
BROKEN_GPU = replace(WITH_GPU, devices=(CPU_WORKS, CUDA_FAILS))


def with_host(checkup: Checkup, **changes: object) -> Checkup:
    return replace(checkup, facts=replace(checkup.facts, host=replace(HOST, **changes)))  # type: ignore[arg-type]


def with_runtime(checkup: Checkup, **changes: object) -> Checkup:
    runtime = replace(checkup.facts.runtime, **changes)  # type: ignore[arg-type]
    return replace(checkup, facts=replace(checkup.facts, runtime=runtime))


def with_nvidia(checkup: Checkup, **changes: object) -> Checkup:
    nvidia = replace(checkup.facts.nvidia, **changes)  # type: ignore[arg-type]
    return replace(checkup, facts=replace(checkup.facts, nvidia=nvidia))


def with_file(checkup: Checkup, problem: str, group: int = 0) -> Checkup:
    """/dev/nvidia0 doesn't open."""
    return with_nvidia(checkup, gpus=(), device_files=(*FILES[:2], DeviceFile("/dev/nvidia0", group, problem)))


def without(checkup: Checkup, *files: str, others: tuple[str, ...] = ()) -> Checkup:
    """The same without some libraries."""
    left = tuple(Library(item.file, "", others) if item.file in files else item for item in LIBRARIES)
    return with_nvidia(checkup, libraries=left)
