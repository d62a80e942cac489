"""The places to run: which are declared, which are found, and what each is called."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

#: More GPUs than this in one machine have never been seen.
MAX_GPUS = 16

#: The execution provider of each kind of device.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Device:
    """A named place to run: an ONNX Runtime execution provider with its options.

    Attributes:
        name: `cpu`, `cuda:0`, `cpu:slow`.
        kind: the part before the colon.
        provider: the execution provider's name in ONNX Runtime.
        threads: intra-op threads; 0 leaves it to ONNX Runtime.
        instances: how many runs may go on at once.
        cpus: the cores that its threads may use; empty for all of the process's.
        memory_limit_mb: as much memory may it take, in 2**20 bytes; 0 for no limit.
        price_per_hour: what an hour of it costs; None if nobody said.
        idle_w, busy_w: watts it draws when idle and when busy; None if nobody said.
        isolated: whether its sessions live in a process of their own.
        watchdog_s: a run of such a device that takes longer, and much longer than any before, counts as hung.
    """

    name: str
    kind: str
    provider: str
    provider_options: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    instances: int = 1
    cpus: tuple[int, ...] = ()
    memory_limit_mb: int = 0
    price_per_hour: float | None = None
    idle_w: float | None = None
    busy_w: float | None = None
    isolated: bool = False
    watchdog_s: float = 10.0


def cpu() -> Device:
    """The CPU as it is where nothing is declared."""
    return Device("cpu", "cpu", PROVIDERS["cpu"], threads=usable_cpus())


def cuda(number: int) -> Device:
    """A GPU as it is where nothing is declared: in a process of its own, because a CUDA error that sticks ends its process."""
    return Device(f"cuda:{number}", "cuda", PROVIDERS["cuda"], cuda_options(number), isolated=True)


def cuda_options(number: int) -> dict[str, str]:
    """The CUDA provider's options for a GPU. Its exhaustive search for convolutions costs minutes on dynamic shapes."""
    return {"device_id": str(number), "cudnn_conv_algo_search": "HEURISTIC"}


def missing_for_cuda(providers: tuple[str, ...]) -> str | None:
    """What CUDA lacks before it is worth trying; None if nothing. A real run has the last word.

    Args:
        providers: what ONNX Runtime was compiled with.
    """
    lacking = []
    if not Path("/proc/driver/nvidia/version").exists() and not Path("/dev/nvidiactl").exists():
        lacking.append("no NVIDIA driver is loaded on this machine")
    if PROVIDERS["cuda"] not in providers:
        lacking.append("the CPU build of ONNX Runtime is installed (install turnout[gpu] instead of turnout[cpu])")
    return " and ".join(lacking) or None


def usable_cpus() -> int:
    """CPU cores this process may really use: its affinity, cut down by the cgroup's quota (v2, then v1)."""
    cpus = len(os.sched_getaffinity(0))
    for read in (_quota_v2, _quota_v1):
        quota = read()
        if quota is not None:
            return max(1, min(cpus, math.ceil(quota)))
    return cpus


def _quota_v2() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1() -> float | None:
    try:
        quota = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period
