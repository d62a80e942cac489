"""Quantities as users write them on the command line: `50ms`, `100/s`, `cpu=0.34/h`, `20,95`."""

import re
from typing import NamedTuple

from turnout_loadtests.errors import LoadTestError

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>us|ms|s)")
_RATE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*/\s*s")
_PRICE = re.compile(r"(?P<device>[^=]+)=(?P<number>\d+(\.\d+)?)\s*/\s*h")
_WATTS = re.compile(r"(?P<idle>\d+(\.\d+)?)\s*,\s*(?P<max>\d+(\.\d+)?)")
_IN_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class PowerModel(NamedTuple):
    """A device's power as a straight line: P = idle + utilisation x (max - idle)."""

    idle_w: float
    max_w: float


def duration_ms(text: str) -> float:
    """The milliseconds in a text such as `50ms`, `0.5s` or `800us`."""
    found = _DURATION.fullmatch(text.strip())
    if not found or float(found["number"]) == 0:
        raise LoadTestError(f"{text!r} is no duration; write it as 50ms, 0.5s or 800us")
    return float(found["number"]) * _IN_MS[found["unit"]]


def rate_per_s(text: str) -> float:
    """The requests per second in a text such as `100/s`."""
    found = _RATE.fullmatch(text.strip())
    if not found or float(found["number"]) == 0:
        raise LoadTestError(f"{text!r} is no rate of requests; write it as 100/s")
    return float(found["number"])


def price(text: str) -> tuple[str, float]:
    """The device and its price per hour in a text such as `cpu=0.34/h`."""
    found = _PRICE.fullmatch(text.strip())
    if not found:
        raise LoadTestError(f"{text!r} is no price; write it as cpu=0.34/h, with the device's name and the price of an hour")
    return found["device"].strip(), float(found["number"])


def power_model(text: str) -> PowerModel:
    """The idle and the full power in a text such as `20,95`, in watts."""
    found = _WATTS.fullmatch(text.strip())
    if not found or float(found["max"]) < float(found["idle"]):
        raise LoadTestError(f"{text!r} is no power; write the watts when idle and at full load as 20,95")
    return PowerModel(float(found["idle"]), float(found["max"]))
