"""What a GPU draws, for devices whose configuration doesn't say. NVML only reads: it starts no CUDA in this process."""

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from turnout_server.devices.device import Device

logger = logging.getLogger(__name__)


def with_power(
    device: Device,
    load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
    environ: Mapping[str, str] = os.environ,
) -> Device:
    """The device with `idle_w` and `busy_w` where nobody gave them; call it before anything runs there.

    Idle is what it draws now. Busy is the limit that it enforces: few models reach that, so it is worth measuring.
    """
    if not device.is_cuda or (device.idle_w is not None and device.busy_w is not None):
        return device
    try:
        nvml = load()
    except ImportError:
        return device
    with suppress(nvml.NVMLError):
        nvml.nvmlInit()
        try:
            handle = _handle(nvml, int(device.provider_options.get("device_id", "0")), environ)
            if handle is not None:
                idle_w = nvml.nvmlDeviceGetPowerUsage(handle) / 1000 if device.idle_w is None else device.idle_w
                limit_w = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000 if device.busy_w is None else device.busy_w
                logger.info("%s: idle_w = %.0f and busy_w = %.0f, by NVML", device.name, idle_w, limit_w)
                return replace(device, idle_w=idle_w, busy_w=max(idle_w, limit_w))
        finally:
            nvml.nvmlShutdown()
    return device


def _handle(nvml: Any, number: int, environ: Mapping[str, str]) -> Any:
    """NVML's handle of CUDA's GPU of that number; None if they may count differently."""
    count = nvml.nvmlDeviceGetCount()
    names = {nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)}
    if len(names) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return None  # CUDA puts the fastest first
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [str(index) for index in range(count)] if visible is None else [entry.strip() for entry in visible.split(",")]
    if number >= len(chosen):
        return None
    if chosen[number].isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(chosen[number]))
    return nvml.nvmlDeviceGetHandleByUUID(chosen[number])
