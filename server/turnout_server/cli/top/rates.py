"""What happened between two answers of /status. The page in observability/page.html computes the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

#: An answer of /status, parsed (observability/status.py).
Status = dict[str, Any]


@dataclass(frozen=True)
class Rates:
    """What was counted for a model on a device in `span_s` seconds; `span_s` is 0 if there is only one answer.

    Attributes:
        answered: requests.
        runs, rows: runs, and rows in them.
        busy_s: time of the runs.
        latency_counts: answered requests by bucket of their latency.
    """

    span_s: float = 0.0
    answered: int = 0
    runs: int = 0
    rows: float = 0.0
    busy_s: float = 0.0
    latency_counts: tuple[int, ...] = ()

    @classmethod
    def between(cls, span_s: float, before: dict[str, Any] | None, after: dict[str, Any]) -> Self:
        """The difference of two entries; all of `after` if the counts began anew, or there was none before."""
        if before is None or after["answered"] < before["answered"] or after["runs"] < before["runs"]:
            before = {
                "answered": 0,
                "runs": 0,
                "run_rows": 0,
                "busy_s": 0,
                "latency_counts": [0] * len(after["latency_counts"]),
            }
        counts = zip(after["latency_counts"], before["latency_counts"], strict=True)
        return cls(
            span_s,
            after["answered"] - before["answered"],
            after["runs"] - before["runs"],
            after["run_rows"] - before["run_rows"],
            after["busy_s"] - before["busy_s"],
            tuple(now - then for now, then in counts),
        )

    @property
    def requests_per_s(self) -> float | None:
        return self.answered / self.span_s if self.span_s else None

    @property
    def rows_per_run(self) -> float | None:
        return self.rows / self.runs if self.runs else None


#: Rates by model, version and device.
Key = tuple[str, str, str]


def rates_of(before: Status, after: Status) -> dict[Key, Rates]:
    """What happened to each model on each device between two answers of the same server."""
    span_s = max(0.0, after["server"]["uptime_s"] - before["server"]["uptime_s"])
    earlier = _entries(before)
    return {key: Rates.between(span_s, earlier.get(key), entry) for key, entry in _entries(after).items()}


def use_of(device: dict[str, Any], rates: dict[Key, Rates]) -> float | None:
    """The share of a device's instances that was busy, from 0 to 1; None if it isn't known yet."""
    own = [each for (_, _, name), each in rates.items() if name == device["name"]]
    span_s = max((each.span_s for each in own), default=0.0)
    return min(1.0, sum(each.busy_s for each in own) / span_s / device["instances"]) if span_s else None


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value that this share of the observations doesn't exceed, interpolated within its bucket.

    Args:
        bounds: the buckets' upper bounds.
        counts: observations by bucket; one more than there are bounds.

    Returns:
        None if nothing was observed; the last bound if it is above that.
    """
    rank, below = share * sum(counts), 0.0
    if not rank:
        return None
    for low, high, count in zip((0.0, *bounds), bounds, counts, strict=False):
        if count and below + count >= rank:
            return low + (high - low) * (rank - below) / count
        below += count
    return bounds[-1]


def _entries(status: Status) -> dict[Key, dict[str, Any]]:
    return {
        (model["name"], model["version"], entry["device"]): entry for model in status["models"] for entry in model["devices"]
    }
