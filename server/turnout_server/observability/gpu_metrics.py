"""Metrics of each GPU from the NVIDIA driver, under Triton's names.

Names and units: triton-inference-server/core, src/metrics.cc. NVML only reads: it starts no CUDA in this process.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily

#: By name: the documentation, the NVML function, and the value in its result.
_GAUGES: Final[dict[str, tuple[str, str, Callable[[Any], float]]]] = {
    "nv_gpu_utilization": ("Share of time that it is busy.", "nvmlDeviceGetUtilizationRates", lambda a: a.gpu / 100),
    "nv_gpu_memory_total_bytes": ("Memory.", "nvmlDeviceGetMemoryInfo", lambda a: a.total),
    "nv_gpu_memory_used_bytes": ("Memory in use.", "nvmlDeviceGetMemoryInfo", lambda a: a.used),
    "nv_gpu_power_usage": ("Watts drawn.", "nvmlDeviceGetPowerUsage", lambda a: a / 1000),
    "nv_gpu_power_limit": ("Watts that it may draw.", "nvmlDeviceGetPowerManagementLimit", lambda a: a / 1000),
}


class GpuMetrics:
    """A Prometheus collector. Values that a GPU doesn't report are left out."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; the interface that prometheus_client's registry calls."""
        gpus = dict(self._gpus())
        for name, (documentation, function, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, documentation, labels=["gpu_uuid"])
            self._fill(gauge, gpus, function, value)
            yield gauge
        # Untyped, because Triton's name has no suffix `_total`, which prometheus_client adds to every counter.
        joules = UnknownMetricFamily("nv_energy_consumption", "Joules since the driver was loaded.", labels=["gpu_uuid"])
        self._fill(joules, gpus, "nvmlDeviceGetTotalEnergyConsumption", lambda millijoules: millijoules / 1000)
        yield joules

    def _gpus(self) -> Iterator[tuple[str, Any]]:
        with suppress(self._nvml.NVMLError):
            for index in range(self._nvml.nvmlDeviceGetCount()):
                with suppress(self._nvml.NVMLError):
                    handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                    yield self._nvml.nvmlDeviceGetUUID(handle), handle

    def _fill(self, family: Any, gpus: dict[str, Any], function: str, value: Callable[[Any], float]) -> None:
        for uuid, handle in gpus.items():
            with suppress(self._nvml.NVMLError):
                family.add_metric([uuid], value(getattr(self._nvml, function)(handle)))


def gpu_metrics(load: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> GpuMetrics | None:
    """The collector; None without `nvidia-ml-py` or without a driver that answers."""
    try:
        nvml = load()
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return GpuMetrics(nvml)
