"""Counts and durations, kept by each thread for itself and added up when somebody asks.

A request costs a few list additions and no lock: each thread writes series of its own, which nobody else writes. A reader
sums them; it may see a request half counted, and never one counted twice or lost.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

#: What a series is about: model, version, device. `NOBODY` stands where a request named no model that exists.
Key = tuple[str, str, str]
NOBODY: Key = ("unknown", "", "")


class Histogram:
    """Counts by bucket. `bounds` are inclusive upper ends; one more bucket holds what lies above them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Histogram") -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, count up to it) pairs as Prometheus wants them, `+Inf` last."""
        pairs, running = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            running += count
            pairs.append((bound, float(running)))
        return pairs


class Series:
    """What one thread has seen of one (model, version, device)."""

    __slots__ = ("batch_rows", "compute_s", "failures", "queue_s", "request_s")

    def __init__(self) -> None:
        self.failures: defaultdict[str, int] = defaultdict(int)
        self.request_s = Histogram(SECONDS)
        self.queue_s = Histogram(SECONDS)
        self.compute_s = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)

    def add(self, other: "Series") -> None:
        for code, count in list(other.failures.items()):
            self.failures[code] += count
        for name in ("request_s", "queue_s", "compute_s", "batch_rows"):
            getattr(self, name).add(getattr(other, name))


class Metrics:
    """All the series of one server, and a Prometheus collector over them.

    Args:
        in_flight: requests waiting or running, by device; asked for on every scrape.
    """

    def __init__(self, in_flight: Callable[[], dict[str, int]] = dict) -> None:
        self.in_flight = in_flight
        self._own = threading.local()
        self._shards: list[dict[Key, Series]] = []

    def series(self, key: Key) -> Series:
        """The calling thread's own series for `key`."""
        try:
            shard: dict[Key, Series] = self._own.shard
        except AttributeError:
            shard = self._own.shard = {}
            self._shards.append(shard)
        series = shard.get(key)
        if series is None:
            series = shard[key] = Series()
        return series

    def totals(self) -> dict[Key, Series]:
        """Every series, summed over the threads."""
        totals: defaultdict[Key, Series] = defaultdict(Series)
        for shard in list(self._shards):
            for key, series in list(shard.items()):
                totals[key].add(series)
        return totals

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; the interface that prometheus_client's registry calls."""
        labels = ["model", "version", "device"]
        requests = CounterMetricFamily("turnout_requests", "Requests answered.", labels=labels)
        failures = CounterMetricFamily("turnout_request_failures", "Requests that failed, by status.", labels=[*labels, "code"])
        histograms = {
            "request_s": ("turnout_request_seconds", "From the message's arrival to its answer."),
            "queue_s": ("turnout_queue_seconds", "Waiting for the device."),
            "compute_s": ("turnout_compute_seconds", "Running on the device."),
            "batch_rows": ("turnout_batch_rows", "Rows executed together, one observation a run."),
        }
        families = {name: HistogramMetricFamily(*text, labels=labels) for name, text in histograms.items()}
        for key, series in sorted(self.totals().items()):
            for code, count in series.failures.items():
                failures.add_metric([*key, code], count)
            if not key[2]:  # failed before it had a device: there is nothing else to tell
                continue
            requests.add_metric(key, sum(series.request_s.counts))
            for name, family in families.items():
                histogram: Histogram = getattr(series, name)
                family.add_metric(key, histogram.cumulative(), histogram.total)
        in_flight = GaugeMetricFamily("turnout_in_flight", "Requests waiting or running.", labels=["device"])
        for device, count in self.in_flight().items():
            in_flight.add_metric([device], count)
        yield from (requests, failures, *families.values(), in_flight)
