"""The machine that a measurement ran on, as far as it affects the numbers."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("turnout", "onnxruntime", "onnxruntime-gpu", "grpcio", "locust", "gevent", "numpy")


@dataclass(frozen=True)
class Environment:
    """The machine that sent the load, and its installed packages; None for what couldn't be read.

    Attributes:
        cores: those that this process may use.
        cpu_limit: the cgroup's quota in cores; None without one.
    """

    cpu: str
    cores: int
    cpu_limit: float | None
    memory_gib: float | None
    gpus: list[str]
    system: str
    versions: dict[str, str]

    @property
    def processor(self) -> str:
        """The processor's name and the cores, as text."""
        limit = "" if self.cpu_limit is None else f", limited to {self.cpu_limit:g}"
        return f"{self.cpu}, {self.cores} cores{limit}"

    @property
    def memory(self) -> str:
        """The size of the memory, as text."""
        return "unknown" if self.memory_gib is None else f"{self.memory_gib:g} GiB"


def describe(packages: Sequence[str] = PACKAGES) -> Environment:
    """The environment of this process, with the versions of those packages that are installed."""
    return Environment(
        cpu=_cpu_name(_text("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_limit=parse_cpu_limit(_text("/sys/fs/cgroup/cpu.max")),
        memory_gib=_memory_gib(_text("/proc/meminfo")),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}",
        versions=_versions(packages),
    )


def parse_cpu_limit(text: str) -> float | None:
    """The cores allowed by a cgroup's `cpu.max`; None without a limit."""
    quota, _, period = text.strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _cpu_name(cpuinfo: str) -> str:
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib(meminfo: str) -> float | None:
    first = meminfo.partition("\n")[0].split()  # "MemTotal:  24576000 kB"
    return round(int(first[1]) / 2**20, 1) if first[:1] == ["MemTotal:"] else None


def _gpus() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.replace(",", ", driver", 1) for line in listed.splitlines()]


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
