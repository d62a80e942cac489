"""The machine that a load test ran on, as far as it changes the numbers."""

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("turnout", "onnxruntime", "onnxruntime-gpu", "grpcio", "locust", "gevent", "numpy")


@dataclass(frozen=True)
class Environment:
    """Of the machine that sent the load; the server's too where it ran there. None where it couldn't be read."""

    cpu: str
    cores: int
    cpu_limit: float | None
    memory_gib: float | None
    gpus: list[str]
    system: str
    versions: dict[str, str]


def describe() -> Environment:
    """Look around."""
    return Environment(
        cpu=_cpu_name(_text("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_limit=parse_cpu_limit(_text("/sys/fs/cgroup/cpu.max")),
        memory_gib=_memory_gib(_text("/proc/meminfo")),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}",
        versions=_versions(),
    )


def idle_pressure_percent(window_s: float = 0.5) -> float | None:
    """How much of this time some task waited for a processor; None where the system doesn't say. Call it while idle."""
    before_us = parse_stalled_us(_text("/proc/pressure/cpu"))
    if before_us is None:
        return None
    time.sleep(window_s)
    after_us = parse_stalled_us(_text("/proc/pressure/cpu"))
    return None if after_us is None else (after_us - before_us) / window_s / 1e4


def parse_cpu_limit(text: str) -> float | None:
    """Cores allowed by a cgroup's `cpu.max`; None without a limit."""
    quota, _, period = text.strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def parse_stalled_us(text: str) -> int | None:
    """Microseconds in which some task waited for a processor, from `/proc/pressure/cpu`."""
    line = text.partition("\n")[0]
    total = line.rpartition("total=")[2]
    return int(total) if line.startswith("some") and total.isdigit() else None


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


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
