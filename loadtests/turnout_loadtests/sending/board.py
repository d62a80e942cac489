"""Devices side by side, for a tab of Locust's page: rates and latencies from Locust, queue and run from the answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnout_loadtests.measuring.server_metrics import Page, busy_shares

if TYPE_CHECKING:  # importing Locust changes the standard library, which only processes that send want
    from locust.stats import RequestStats

#: The key under which a worker sends its sums to the master.
REPORT = "turnout_server_times"
TITLE, KEY = "Devices", "devices"
COLUMNS = {
    "requests": "Requests",
    "per_s": "Requests/s",
    "p50_ms": "p50 (ms)",
    "p99_ms": "p99 (ms)",
    "queue_ms": "Queue (ms)",
    "compute_ms": "Compute (ms)",
    "answered_by": "Answered by",
    "failures": "Failures",
    "busy": "Device busy",
    "power_w": "GPU power (W)",
}


@dataclass
class ServerTimes:
    """Sums over answers of one row of Locust's table, and how many each device gave."""

    answers: int = 0
    queue_us: int = 0
    compute_us: int = 0
    devices: dict[str, int] | None = None

    def add(self, queue_us: int, compute_us: int, devices: Mapping[str, int], answers: int = 1) -> None:
        """Adds answers."""
        self.answers += answers
        self.queue_us += queue_us
        self.compute_us += compute_us
        self.devices = self.devices or {}
        for device, count in devices.items():
            self.devices[device] = self.devices.get(device, 0) + count


class Board:
    """What is known of each row of Locust's table: one model on one device with one batch."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self._times: dict[str, ServerTimes] = {}
        self._unsent: dict[str, ServerTimes] = {}

    def clear(self) -> None:
        """Begins anew, at the start of a test or of its window."""
        self._times.clear()
        self._unsent.clear()

    def add(self, label: str, context: Mapping[str, Any]) -> None:
        """Adds an answer, as it was fired to Locust's listeners."""
        for times in (self._times, self._unsent):
            devices = {context["device"]: 1}
            times.setdefault(label, ServerTimes()).add(context["queue_us"], context["compute_us"], devices)

    def take(self) -> dict[str, list[Any]]:
        """What was added since it was taken last, for the master."""
        taken = {label: [t.answers, t.queue_us, t.compute_us, t.devices or {}] for label, t in self._unsent.items()}
        self._unsent.clear()
        return taken

    def merge(self, taken: Mapping[str, list[Any]]) -> None:
        """Adds what a worker took."""
        for label, (answers, queue_us, compute_us, devices) in taken.items():
            self._times.setdefault(label, ServerTimes()).add(queue_us, compute_us, devices, answers)

    def seen(self, page: Page | None) -> None:
        """Notes the server's metrics; the newest two tell how busy devices are now."""
        if page is not None:
            self.pages = [*self.pages[-1:], page]

    def rows(self, stats: "RequestStats") -> list[dict[str, str]]:
        """The table, a row for each of Locust's own; numbers as text."""
        busy = busy_shares(self.pages[0], self.pages[1]) if len(self.pages) == 2 else {}
        watts = sum(self.pages[-1].gpu_w.values()) if self.pages and self.pages[-1].gpu_w else None
        return [self._row(name, entry, busy, watts) for (name, _), entry in sorted(stats.entries.items())]

    def _row(self, name: str, entry: Any, busy: Mapping[str, float], watts: float | None) -> dict[str, str]:
        times = self._times.get(name, ServerTimes())
        devices = times.devices or {}
        shares = [busy[device] for device in devices if device in busy]
        percentile: Callable[[float], Any] = entry.get_current_response_time_percentile
        return {
            "name": name,
            "requests": str(entry.num_requests),
            "per_s": _number(entry.current_rps),
            "p50_ms": _number(percentile(0.5)),
            "p99_ms": _number(percentile(0.99)),
            "queue_ms": _number(times.queue_us / times.answers / 1e3 if times.answers else None),
            "compute_ms": _number(times.compute_us / times.answers / 1e3 if times.answers else None),
            "answered_by": ", ".join(sorted(devices)),
            "failures": str(entry.num_failures),
            "busy": "" if not shares else f"{sum(shares) / len(shares):.0%}",
            "power_w": "" if watts is None else f"{watts:.0f}",
        }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
