"""The server's metrics page: how busy each device was between two readings, and what the GPUs drew."""

import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

TIMEOUT_S = 5.0
_LINE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Page:
    """The metrics at one moment that say how busy devices are. All but the watts are sums since a start.

    Attributes:
        compute_s: seconds that requests spent running, by device.
        answered: requests that ran, by device.
        runs: runs, by device.
        gpu_j, gpu_w: energy and power by the GPU's UUID.
    """

    at_s: float
    compute_s: Mapping[str, float] = field(default_factory=dict)
    answered: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[str, float] = field(default_factory=dict)
    gpu_j: Mapping[str, float] = field(default_factory=dict)
    gpu_w: Mapping[str, float] = field(default_factory=dict)


def fetch(address: str) -> Page | None:
    """The page at `HOST:PORT`; None if it can't be read."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=TIMEOUT_S) as answer:
            return parse(answer.read().decode("utf-8", "replace"), time.perf_counter())
    except (OSError, ValueError):
        return None


def parse(text: str, at_s: float) -> Page:
    """The page in Prometheus' text format; what isn't there is left out."""
    found: dict[str, dict[str, float]] = {name: defaultdict(float) for name, _ in _SERIES.values()}
    for line in text.splitlines():
        match = _LINE.fullmatch(line) if not line.startswith("#") else None
        if match and match["name"] in _SERIES:
            series, label = _SERIES[match["name"]]
            labels = dict(_LABEL.findall(match["labels"] or ""))
            if label in labels:
                found[series][labels[label]] += float(match["value"])
    return Page(at_s, **{name: dict(values) for name, values in found.items()})


def busy_shares(before: Page, after: Page, instances: Callable[[str], int] = lambda device: 1) -> dict[str, float]:
    """The share of the time between two pages in which each device's instances ran, 0 to 1, by device.

    Requests that ran together each count the whole run, so that their mean is taken as the mean of the runs.
    """
    passed_s = after.at_s - before.at_s
    shares = {}
    for device in after.compute_s:
        answered = after.answered.get(device, 0.0) - before.answered.get(device, 0.0)
        runs = after.runs.get(device, 0.0) - before.runs.get(device, 0.0)
        compute_s = after.compute_s[device] - before.compute_s.get(device, 0.0)
        mean_s = compute_s / answered if answered > 0 else 0.0
        shares[device] = min(1.0, runs * mean_s / (passed_s * instances(device))) if passed_s > 0 else 0.0
    return shares


#: For each metric, the field of `Page` that it belongs to, and the label to sum it by.
_SERIES = {
    "turnout_compute_seconds_sum": ("compute_s", "device"),
    "turnout_compute_seconds_count": ("answered", "device"),
    "turnout_batch_rows_count": ("runs", "device"),
    "nv_energy_consumption": ("gpu_j", "gpu_uuid"),
    "nv_gpu_power_usage": ("gpu_w", "gpu_uuid"),
}
