"""The machine as this process sees it: its CPU, the cores and memory that its control groups leave it, what its system lacks.

Control groups are read by version 2 of their files or by version 1. Only Linux has them, and some of Python's functions.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

#: Where Linux has the shared memory that processes open by name.
SHARED_MEMORY = Path("/dev/shm")
#: Version 1 writes "no limit" as about 2**63 bytes.
_NO_LIMIT_BYTES = 2**60


def usable_cores() -> frozenset[int]:
    """The numbers of the cores that this process may run on: by its affinity, or all where the system has none, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def why_no_pinning() -> str | None:
    """Why threads can't be kept to some cores; None if they can."""
    return None if hasattr(os, "sched_setaffinity") else "this system can't keep threads to cores, which needs Linux"


def why_no_isolation() -> str | None:
    """Why a device can't have a process of its own; None if it can."""
    if all(hasattr(os, name) for name in ("memfd_create", "posix_fallocate")):
        return None
    return "this system can't give a device a process of its own, which needs Linux's anonymous shared memory"


def why_no_client_shm() -> str | None:
    """Why clients can't pass tensors in shared memory; None if they can."""
    if hasattr(os, "pread") and hasattr(os, "O_NOFOLLOW") and SHARED_MEMORY.is_dir():
        return None
    return f"this system has no {SHARED_MEMORY}, where shared memory is on Linux"


def usable_cpus() -> int:
    """CPU cores this process may really use: its affinity, cut down by its control group's quota."""
    cpus = len(usable_cores())
    quota = quota_cores()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cpu_model(root: Path = Path("/")) -> str:
    """The CPU's name as the system tells it; ARM machines don't.

    Args:
        root: where the file system begins.
    """
    lines = _text(root / "proc/cpuinfo").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def quota_cores(root: Path = Path("/")) -> float | None:
    """How many cores it may keep busy at once; None for no quota."""
    quotas = (_quota_of(group) for group in _groups(root, "cpu"))
    return min((cores for cores in quotas if cores is not None), default=None)


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """How much memory it may use; None for no limit."""
    limits = (_limit_of(group) for group in _groups(root, "memory"))
    return min((limit for limit in limits if limit is not None), default=None)


def usable_memory_bytes() -> int:
    """How much memory this process may use: the machine's, cut down by its control group's limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = memory_limit_bytes()
    return machine if limit is None else min(machine, limit)


def resident_bytes(root: Path = Path("/")) -> int:
    """How much memory this process uses; 0 where the system doesn't tell."""
    pages = _text(root / "proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directory of this process's group and those of the groups around it, whose limits bind it, too."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount
        own = base / path.lstrip("/")
        for group in (own, *own.parents):
            yield group
            if group == base:
                break


def _quota_of(group: Path) -> float | None:
    words = _text(group / "cpu.max").split() or [
        _text(group / "cpu.cfs_quota_us").strip(),
        _text(group / "cpu.cfs_period_us").strip(),
    ]
    quota, period = words
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None  # neither `max` nor -1


def _limit_of(group: Path) -> int | None:
    limit = (_text(group / "memory.max") or _text(group / "memory.limit_in_bytes")).strip()
    return int(limit) if limit.isdecimal() and int(limit) < _NO_LIMIT_BYTES else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
