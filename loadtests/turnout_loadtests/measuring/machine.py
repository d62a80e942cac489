"""What the machine did while a load ran: work of others, pressure, stolen time; from the counters of Linux."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Reading:
    """Counters at one moment; None for what the system doesn't say.

    Attributes:
        busy_s, steal_s: time that the cores which this process may use were busy, and that a hypervisor took from them.
        stalled_s: time in which some task of the machine waited for a processor.
        ours_s: processor time of the processes of the test: senders, server, and this one.
        server_s: the server's part of it; None if its process isn't known.
    """

    at_s: float
    busy_s: float | None
    steal_s: float | None
    stalled_s: float | None
    ours_s: float
    server_s: float | None


@dataclass(frozen=True)
class MachineUse:
    """How the machine was used between two readings, in percent of the time that really passed; None if unknown.

    Attributes:
        busy_percent: of the cores' time, by whatever work.
        other_work_percent: of the cores' time, by processes that aren't part of the test.
        steal_percent: of the cores' time, taken by the hypervisor.
        pressure_percent: of the time, in which some task waited for a processor.
        server_cores: cores that the server kept busy on average.
    """

    busy_percent: float | None = None
    other_work_percent: float | None = None
    steal_percent: float | None = None
    pressure_percent: float | None = None
    server_cores: float | None = None


def read(ours: Iterable[int], server: Sequence[int]) -> Reading:
    """The counters now. `ours` are the test's processes besides this one and the server's, `server` the server's."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    busy_s, steal_s = parse_core_times(text_of("/proc/stat"), cores)
    server_s = sum(cpu_s(pid) for pid in server) if server else None
    stalled_us = parse_stalled_us(text_of("/proc/pressure/cpu"))
    return Reading(
        at_s=time.perf_counter(),
        busy_s=busy_s,
        steal_s=steal_s,
        stalled_s=None if stalled_us is None else stalled_us / 1e6,
        ours_s=sum(cpu_s(pid) for pid in (*ours, os.getpid())) + (server_s or 0.0),
        server_s=server_s,
    )


def between(before: Reading, after: Reading, cores: int) -> MachineUse:
    """What happened between two readings.

    Args:
        cores: the number of cores that this process may use.
    """
    passed_s = after.at_s - before.at_s
    if passed_s <= 0:
        return MachineUse()

    def percent(end_s: float | None, begin_s: float | None, of_s: float) -> float | None:
        return None if end_s is None or begin_s is None else max(0.0, min(100.0, 100 * (end_s - begin_s) / of_s))

    ours_s = after.ours_s - before.ours_s
    others_s = None if after.busy_s is None else after.busy_s - ours_s
    return MachineUse(
        busy_percent=percent(after.busy_s, before.busy_s, cores * passed_s),
        other_work_percent=percent(others_s, before.busy_s, cores * passed_s),
        steal_percent=percent(after.steal_s, before.steal_s, cores * passed_s),
        pressure_percent=percent(after.stalled_s, before.stalled_s, passed_s),
        server_cores=None
        if after.server_s is None or before.server_s is None
        else max(0.0, after.server_s - before.server_s) / passed_s,
    )


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_core_times(stat: str, cores: Iterable[int]) -> tuple[float | None, float | None]:
    """Busy and stolen seconds of these cores since the start, from `/proc/stat`; None if it doesn't list them."""
    wanted = {f"cpu{core}" for core in cores}
    rows = [line.split() for line in stat.splitlines() if line.partition(" ")[0] in wanted]
    if not rows:
        return None, None
    # user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time
    times = [[int(value) for value in row[1:9]] for row in rows]
    busy = sum(sum(row[:3]) + sum(row[5:7]) for row in times)
    return busy / TICKS_PER_S, sum(row[7] for row in times if len(row) > 7) / TICKS_PER_S


def parse_stalled_us(text: str) -> int | None:
    """The microseconds in which some task waited for a processor, from `/proc/pressure/cpu`; None if it doesn't say."""
    line = text.partition("\n")[0]
    total = line.rpartition("total=")[2]
    return int(total) if line.startswith("some") and total.isdigit() else None


def parse_cpu_s(stat: str) -> float:
    """The processor time of a process, from its `stat`; 0 if it has ended."""
    values = stat.rpartition(")")[2].split()  # the name before it may contain spaces and brackets
    return (int(values[11]) + int(values[12])) / TICKS_PER_S if len(values) > 12 else 0.0


def cpu_s(pid: int) -> float:
    """The processor time of a process."""
    return parse_cpu_s(text_of(f"/proc/{pid}/stat"))


def text_of(path: str | Path) -> str:
    """The content of a file of the system; empty if it can't be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
