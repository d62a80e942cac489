from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from turnout_server.devices import device as devices
from turnout_server.devices.gpu_power import with_power


class NvmlError(Exception):
    pass


@dataclass
class Nvml:
    """The driver of a machine with these GPUs: name, and watts that it draws and may draw."""

    gpus: list[tuple[str, int, int]] = field(default_factory=lambda: [("NVIDIA H200", 76, 700)])
    NVMLError: type[Exception] = NvmlError
    trouble: str = ""
    open: bool = False

    def nvmlInit(self) -> None:
        if self.trouble:
            raise NvmlError(self.trouble)
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.gpus[handle][0]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self.gpus[handle][1] * 1000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return self.gpus[handle][2] * 1000


def watts(nvml: Nvml, number: int = 0, visible: str | None = None, **environ: str) -> tuple[float | None, float | None]:
    environ |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    device = with_power(devices.cuda(number), lambda: nvml, environ)
    assert not nvml.open
    return device.idle_w, device.busy_w


PAIR = [("L4", 16, 72), ("L4", 17, 72)]


@pytest.mark.parametrize(
    ("number", "visible", "expected"),
    [
        (0, None, (16, 72)),
        (1, None, (17, 72)),
        (0, "1,0", (17, 72)),
        (0, "GPU-1", (17, 72)),
        (1, "1", (None, None)),
        (2, None, (None, None)),
    ],
)
def test_watts_are_those_of_the_gpu_that_cuda_means(
    number: int, visible: str | None, expected: tuple[float | None, float | None]
) -> None:
    assert watts(Nvml(PAIR), number, visible) == expected


@pytest.mark.parametrize(("order", "expected"), [("FASTEST_FIRST", (None, None)), ("PCI_BUS_ID", (16, 72))])
def test_different_gpus_are_told_apart_only_where_cuda_counts_as_nvml_does(
    order: str, expected: tuple[float | None, float | None]
) -> None:
    assert watts(Nvml([*PAIR, ("H200", 76, 700)]), CUDA_DEVICE_ORDER=order) == expected


def test_what_was_given_is_kept() -> None:
    device = with_power(replace(devices.cuda(0), busy_w=300.0), Nvml, {})
    assert (device.idle_w, device.busy_w) == (76, 300)


def test_without_a_driver_or_its_package_the_watts_stay_unknown() -> None:
    def missing() -> Any:
        raise ImportError

    assert watts(Nvml(trouble="Driver Not Loaded")) == (None, None)
    assert with_power(devices.cuda(0), missing, {}) == devices.cuda(0)


def test_other_devices_are_not_asked_about() -> None:
    def never() -> Any:
        raise AssertionError

    assert with_power(devices.cpu(), never, {}) == devices.cpu()
