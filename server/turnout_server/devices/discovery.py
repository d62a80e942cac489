"""Finds what a machine has, before anything is tried: GPUs, and what tells one device from another."""

import os
from collections.abc import Mapping
from pathlib import Path

from turnout_server.devices.device import PROVIDERS, Device
from turnout_server.devices.host import cpu_model, usable_cpus

#: More GPUs than this in one machine have never been seen.
MAX_GPUS = 16


def missing_for_cuda(providers: tuple[str, ...], root: Path = Path("/")) -> str | None:
    """What CUDA lacks before it is worth trying; None if nothing. A real run has the last word.

    Args:
        providers: what ONNX Runtime was compiled with.
        root: where the file system begins.
    """
    lacking = []
    has_driver = (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidiactl").exists()
    if not has_driver:
        lacking.append("no NVIDIA driver is loaded on this machine")
    if PROVIDERS["cuda"] not in providers:
        hint = " ('turnout-server doctor' has the fix)" if has_driver else ""  # without a driver, nothing is wrong
        lacking.append(f"the CPU build of ONNX Runtime is installed{hint}")
    return " and ".join(lacking) or None


def count_gpus(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """How many GPUs are worth trying: those that this process was given a file of, and at least the first, to learn why not.

    Args:
        root: where the file system begins.
    """
    files = [file for file in (root / "dev").glob("nvidia*") if file.name.removeprefix("nvidia").isdecimal()]
    return max(1, visible_gpus(len(files), environ.get("CUDA_VISIBLE_DEVICES")))


def visible_gpus(present: int, visible: str | None) -> int:
    """How many of so many GPUs CUDA finds where the variable CUDA_VISIBLE_DEVICES is this; None if it isn't set."""
    if visible is None:
        return min(present, MAX_GPUS)
    chosen = visible.split(",")
    ends = (number for number, entry in enumerate(chosen) if entry.strip() in ("", "-1"))  # CUDA stops there, too
    return min(MAX_GPUS, next(ends, len(chosen))) if present else 0


def fingerprint(device: Device) -> str:
    """What a device is, as far as it bears on how fast it runs: hardware, driver and settings."""
    hardware = f"{cpu_model()} x{usable_cpus()}"
    if device.kind != "cpu":
        hardware += f"; {_gpu_models()}"
    options = f"threads={device.threads} cpus={device.cpus} isolated={device.isolated}"
    if device.graph_rows:
        options += f" graphs={device.graph_rows}"
    library = f"{device.library} {_modified_ns(device.library)} {device.hardware}" if device.library else ""
    return f"{hardware}; {device.provider} {library} {device.provider_options} {options}"


def _gpu_models() -> str:
    """The models of the GPUs and the driver's version, as the driver itself tells them."""
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [line.strip() for gpu in gpus for line in _text(gpu).splitlines() if line.startswith("Model")]
    return "; ".join([*models, *_text("/proc/driver/nvidia/version").splitlines()[:1]])


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _modified_ns(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0
