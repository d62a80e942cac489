"""The places to run: which exist on this host, and why the others don't."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from turnout_server import sessions

#: More GPUs than this in one machine have never been seen.
MAX_GPUS = 16


@dataclass(frozen=True)
class Device:
    """A named place to run: an ONNX Runtime execution provider with its options.

    Attributes:
        name: `cpu`, `cuda:0`.
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


@dataclass(frozen=True)
class Devices:
    """What this host has, and the reason for each kind that it lacks."""

    present: tuple[Device, ...]
    missing: dict[str, str]


def discover() -> Devices:
    """The CPU, and every CUDA device that a real run on it has proved."""
    cpu = Device("cpu", "cpu", "CPUExecutionProvider", threads=usable_cpus())
    gpus: list[Device] = []
    reason = _cuda_prerequisite()
    while reason is None and len(gpus) < MAX_GPUS:
        number = len(gpus)
        options = {"device_id": str(number), "cudnn_conv_algo_search": "HEURISTIC"}
        gpu = Device(f"cuda:{number}", "cuda", "CUDAExecutionProvider", options)
        reason = sessions.problem_with(gpu)
        if reason is None:
            gpus.append(gpu)
    missing = {} if gpus or reason is None else {"cuda": reason}
    return Devices((cpu, *gpus), missing)


def _cuda_prerequisite() -> str | None:
    """What CUDA lacks before it is worth trying; None if nothing. The probe run has the last word."""
    lacking = []
    if not Path("/proc/driver/nvidia/version").exists() and not Path("/dev/nvidiactl").exists():
        lacking.append("no NVIDIA driver is loaded on this machine")
    if "CUDAExecutionProvider" not in sessions.built_in_providers():
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
