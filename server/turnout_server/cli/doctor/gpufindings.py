"""Findings about GPUs: why one doesn't work, or what to know about one that does."""

from collections.abc import Iterator

from turnout_server.cli.doctor.checkup import Checkup, Finding
from turnout_server.cli.doctor.facts import Facts
from turnout_server.cli.doctor.nvidia import DeviceFile, Gpu, Library

#: Shows the driver's errors in the kernel's log.
ASK_KERNEL = "sudo dmesg | grep -i -e nvrm -e xid  # the driver's errors"

_NO_DEVICE_FILES = Finding(
    "problem",
    "no-device-files",
    "/dev/nvidia0 is missing",
    "an NVIDIA driver is loaded, but this container was not given its GPUs",
    "docker run --gpus all ...  # Kubernetes: resources.limits 'nvidia.com/gpu': 1",
)


def of_working_gpus(facts: Facts) -> Iterator[Finding]:
    """The findings where every GPU works."""
    for gpu in facts.nvidia.gpus:
        yield from _of_modes(gpu)
    if facts.nvidia.nvml:
        why = "without it, a GPU's memory, use and power can't be read"
        yield Finding("warning", "no-nvml", f"NVML cannot be asked: {facts.nvidia.nvml}", why, "pip install nvidia-ml-py")


def of_missing_gpus(checkup: Checkup) -> Iterator[Finding]:
    """Why there is no GPU, or why one doesn't work, as far as the facts show."""
    facts = checkup.facts
    nvidia, with_cuda = facts.nvidia, bool(facts.runtime.cuda)
    named = any(tried.device.kind == "cuda" for tried in checkup.devices)
    if not nvidia.loaded:
        yield Finding("ok", "no-gpu", "cuda is missing because no NVIDIA driver is loaded on this machine")
    elif not nvidia.present and not with_cuda and not named:
        what = "cuda is missing because this container was given no GPU, nor is ONNX Runtime built for one"
        yield Finding("ok", "no-gpu", what)
    elif not nvidia.present:
        yield _NO_DEVICE_FILES
    elif not with_cuda:
        yield _cpu_build(facts)
    elif nvidia.count == 0:
        what = f"CUDA_VISIBLE_DEVICES='{nvidia.visible}' hides every GPU"
        yield Finding("warning", "gpus-hidden", what, "CUDA shows a process only what this lists", "unset CUDA_VISIBLE_DEVICES")
    else:
        yield from (_closed(file) for file in nvidia.device_files if file.problem)
        yield from _of_driver(facts)
        yield from _of_libraries(facts)
        for gpu in nvidia.gpus:
            yield from _of_modes(gpu)


def _cpu_build(facts: Facts) -> Finding:
    return Finding(
        "problem",
        "cpu-build",
        f"this machine has a GPU, but {facts.runtime.name} is the build for CPUs",
        "the CUDA provider is in onnxruntime-gpu only; to do without GPUs, declare [devices.cuda] with disabled = true",
        f"pip uninstall -y {' '.join(facts.runtime.wheels)} && {facts.install['gpu']}",
    )


def _closed(file: DeviceFile) -> Finding:
    what = f"no permission to open {file.path}" if file.problem in ("EACCES", "EPERM") else f"{file.path} does not open"
    why = f"opening it fails with {file.problem}"
    if file.problem == "EACCES" and file.owner_group:
        why += f"; it belongs to group {file.owner_group}, which this user is not in"
        fix = f'sudo usermod -aG "$(stat -c %G {file.path})" "$USER"  # then log in again'
    elif file.problem == "EACCES":
        fix = f"sudo chmod a+rw {file.path}"
    elif file.problem == "EPERM":
        why += ", as in a container that was not given the device"
        fix = _NO_DEVICE_FILES.fix
    else:
        fix = ASK_KERNEL
    return Finding("problem", "device-file", what, why, fix)


def _of_driver(facts: Facts) -> Iterator[Finding]:
    nvidia = facts.nvidia
    if "mismatch" in nvidia.nvml.lower():
        why = "the driver was updated and the old one is still loaded"
        yield Finding("problem", "driver-mismatch", f"NVML cannot be asked: {nvidia.nvml}", why, "sudo reboot")
    needed = _major(facts.runtime.cuda)
    if nvidia.cuda and _major(nvidia.cuda) < needed:
        branch = {12: 525, 13: 580}.get(needed, 580)
        what = f"driver {nvidia.driver} supports CUDA up to {nvidia.cuda}, and {facts.runtime.name} needs {needed}"
        why = f"CUDA {needed} begins with driver {branch}"
        fix = f"sudo apt-get install -y nvidia-driver-{branch} && sudo reboot  # Debian, Ubuntu"
        yield Finding("problem", "driver-too-old", what, why, fix)


def _of_libraries(facts: Facts) -> Iterator[Finding]:
    missing = [library for library in facts.nvidia.libraries if not library.found]
    of_driver = [library for library in missing if library.file == "libcuda.so.1"]
    if of_driver:
        why = "it comes with the driver; a container gets it from the host if it asks for the capability 'compute'"
        fix = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ..."
        yield Finding("problem", "missing-library", "libcuda.so.1 is missing", why, fix)
    others = [library for library in missing if library not in of_driver]
    if others:
        yield _missing(facts, others)


def _missing(facts: Facts, libraries: list[Library]) -> Finding:
    wheel, version = next(iter(facts.runtime.wheels.items()))
    files = ", ".join(library.file for library in libraries)
    fix = f"pip install '{wheel}[cuda,cudnn]=={version}'"
    other = [file for library in libraries for file in library.others]
    if other:
        why = f"{wheel} {version} was built for CUDA {facts.runtime.cuda} and cuDNN 9; there is {', '.join(other)} instead"
        return Finding("problem", "cuda-major-mismatch", f"{files} {_is_are(libraries)} missing", why, fix)
    lost = "; ".join(dict.fromkeys(f"{library.file} is needed for {library.purpose}" for library in libraries))
    why = f"{wheel} {version} loads {'them' if len(libraries) > 1 else 'it'} on a GPU: {lost}"
    return Finding("problem", "missing-library", f"{files} {_is_are(libraries)} missing", why, fix)


def _is_are(items: list[Library]) -> str:
    return "are" if len(items) > 1 else "is"


def _of_modes(gpu: Gpu) -> Iterator[Finding]:
    default = f"sudo nvidia-smi -i {gpu.number} -c DEFAULT"
    if gpu.mig:
        why = "CUDA shows a process one instance only, the first unless it is named, and none where none was created"
        fix = "export CUDA_VISIBLE_DEVICES=MIG-...  # nvidia-smi -L lists them"
        yield Finding("warning", "mig", f"GPU {gpu.number} is cut into instances (MIG)", why, fix)
    if gpu.compute_mode == "exclusive-process":
        why = "one process at a time may use it: a second server, or this test beside a server, fails"
        yield Finding("warning", "compute-mode", f"GPU {gpu.number} is in compute mode exclusive-process", why, default)
    elif gpu.compute_mode == "prohibited":
        why = "no process may use it"
        yield Finding("problem", "compute-mode", f"GPU {gpu.number} is in compute mode prohibited", why, default)


def _major(version: str) -> int:
    return int(version.partition(".")[0] or 0)
