"""The machine's CPU and memory under Triton's names, this process's own use of them, and what the process consists of."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric

_PACKAGES = {"version": ("turnout",), "onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "grpcio": ("grpcio",)}


class HostMetrics:
    """A Prometheus collector of `nv_cpu_*`, read from /proc. Where there is no /proc the metrics are left out.

    Names: "Metrics" in the user guide of triton-inference-server/server. The utilisation is that since the scrape before.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._busy, self._all = self._ticks()
        self._utilization = 0.0

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; the interface that prometheus_client's registry calls."""
        memory, busy = self._memory_kb(), self._busy_share()
        if self._all and memory:
            total, used = memory["MemTotal"], memory["MemTotal"] - memory["MemAvailable"]
            yield _gauge("nv_cpu_utilization", "Share of all cores' time that they are busy.", busy)
            yield _gauge("nv_cpu_memory_total_bytes", "The machine's memory.", total * 1024)
            yield _gauge("nv_cpu_memory_used_bytes", "The machine's memory in use.", used * 1024)

    def _busy_share(self) -> float:
        before, self._busy, self._all = (self._busy, self._all), *self._ticks()
        if self._all > before[1]:
            self._utilization = (self._busy - before[0]) / (self._all - before[1])
        return self._utilization

    def _ticks(self) -> tuple[int, int]:
        """Clock ticks of all cores since the machine's start: those spent busy, and all; zeros if unknown."""
        words = self._text("proc/stat").partition("\n")[0].split()
        ticks = [int(word) for word in words[1:9]]  # user nice system idle iowait irq softirq steal; guests are in user
        return (sum(ticks) - ticks[3] - ticks[4], sum(ticks)) if len(ticks) == 8 else (0, 0)

    def _memory_kb(self) -> dict[str, int]:
        fields = (line.split() for line in self._text("proc/meminfo").splitlines())
        found = {words[0].removesuffix(":"): int(words[1]) for words in fields if len(words) > 1}
        return found if {"MemTotal", "MemAvailable"} <= set(found) else {}

    def _text(self, name: str) -> str:
        try:
            return (self._root / name).read_text()
        except OSError:
            return ""


class BuildInfo:
    """A Prometheus collector of `turnout_build_info`, whose labels say what this server consists of; its value is 1.

    Args:
        transport: the one in use.
    """

    def __init__(self, transport: str) -> None:
        self._labels = {
            **{label: _version_of(*names) for label, names in _PACKAGES.items()},
            "python": platform.python_version(),
            "transport": transport,
        }

    def collect(self) -> Iterator[Metric]:
        """Yields the metric family; the interface that prometheus_client's registry calls."""
        info = GaugeMetricFamily("turnout_build_info", "1; the labels are versions.", labels=list(self._labels))
        info.add_metric(list(self._labels.values()), 1)
        yield info


def _version_of(*names: str) -> str:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def _gauge(name: str, documentation: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(name, documentation)
    gauge.add_metric([], value)
    return gauge
