"""The GPUs' values in the text that Prometheus reads, from a fake NVML."""

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from turnout_server.observability.gpu_metrics import gpu_metrics


class NVMLError(Exception):
    """As NVML raises it."""


class Nvml:
    """Two GPUs; the second is an old one that can't count its energy."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        self.alive = True

    def nvmlInit(self) -> None:
        self._check()

    def nvmlDeviceGetCount(self) -> int:
        self._check()
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=25 * (handle + 1), memory=99)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=8 * 2**30, used=2**30, free=7 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 61_500

    def nvmlDeviceGetPowerManagementLimit(self, handle: int) -> int:
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle:
            raise NVMLError("Not Supported")
        return 1_234_500

    def _check(self) -> None:
        if not self.alive:
            raise NVMLError("Driver Not Loaded")


def scraped(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, s.labels["gpu_uuid"]): s.value for family in families for s in family.samples}


@pytest.fixture
def nvml() -> Nvml:
    return Nvml()


@pytest.fixture
def registry(nvml: Nvml) -> CollectorRegistry:
    collector = gpu_metrics(lambda: nvml)
    assert collector is not None
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_each_gpu_has_the_values_it_supports_in_tritons_units(registry: CollectorRegistry) -> None:
    shared = {
        "nv_gpu_memory_total_bytes": 8 * 2**30,
        "nv_gpu_memory_used_bytes": 2**30,
        "nv_gpu_power_usage": 61.5,
        "nv_gpu_power_limit": 700,
    }
    assert scraped(registry) == {
        **{(name, uuid): value for name, value in shared.items() for uuid in ("GPU-0", "GPU-1")},
        ("nv_gpu_utilization", "GPU-0"): 0.25,
        ("nv_gpu_utilization", "GPU-1"): 0.5,
        ("nv_energy_consumption", "GPU-0"): 1234.5,
    }


def test_a_driver_that_goes_away_takes_only_its_values_along(registry: CollectorRegistry, nvml: Nvml) -> None:
    nvml.alive = False
    assert scraped(registry) == {}


def test_without_a_driver_there_is_no_collector(nvml: Nvml) -> None:
    nvml.alive = False
    assert gpu_metrics(lambda: nvml) is None


def test_without_nvidias_module_there_is_no_collector() -> None:
    def missing() -> Any:
        raise ImportError("pynvml")

    assert gpu_metrics(missing) is None
