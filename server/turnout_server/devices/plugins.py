"""Execution providers that aren't part of ONNX Runtime, but come in a library that is plugged into it."""

from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime

from turnout_server.core.device_names import number_of
from turnout_server.core.errors import FailedPrecondition
from turnout_server.devices.device import PROVIDERS, Device


def hardware_of(device: Device) -> Any:
    """What a device's plug-in provider is to run on: of the hardware that it offers, the one with the number in the name.

    Loads the library, which stays in this process until its end.

    Raises:
        FailedPrecondition: the library can't be loaded, has no such provider, or offers no such hardware.
    """
    _register(device.provider, device.library)
    offered = [each for each in onnxruntime.get_ep_devices() if each.ep_name == device.provider]
    if not offered:
        present = sorted({_described(each) for each in onnxruntime.get_ep_devices()})
        only = "; it takes hardware by Intel only" if device.provider == PROVIDERS["openvino"] else ""
        raise FailedPrecondition(
            f"{Path(device.library).name} was loaded, and {device.provider} finds no hardware that it can use{only}; "
            f"this machine has {', '.join(present)}"
        )
    fitting = [each for each in offered if device.hardware in ("", _type_of(each))]
    number = number_of(device.name)
    if number >= len(fitting):
        raise FailedPrecondition(
            f"{device.provider} offers no {device.hardware or 'hardware'} with number {number}; "
            f"it offers {[_described(each) for each in offered]}"
        )
    return fitting[number]


@cache
def _register(provider: str, library: str) -> None:
    """Loads a library once in this process; it is told the provider's name, which some take as theirs."""
    try:
        onnxruntime.register_execution_provider_library(provider, library)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        has = onnxruntime.get_available_providers()
        raise FailedPrecondition(
            f"the library of {provider} cannot be used: {reason}; without it, ONNX Runtime has {has}"
        ) from error


def _type_of(offered: Any) -> str:
    """`cpu`, `gpu` or `npu`."""
    return str(offered.device.type.name).lower()


def _described(offered: Any) -> str:
    return f"{_type_of(offered)} of {offered.device.vendor or 'unknown vendor'}"
