"""Counts and durations, kept by each thread for itself and added up when somebody asks.

A request costs a few list additions and no lock: each thread writes series of its own, which nobody else writes. A reader
sums them; it may see a request half counted, and never one counted twice or lost.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: 1 is a prediction come true.
RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
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


@dataclass(slots=True)
class Batches:
    """Runs of one size: how many, and the seconds they took in all to join, run and take apart."""

    count: int = 0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0

    def observe(self, input_s: float, compute_s: float, output_s: float) -> None:
        self.count += 1
        self.input_s += input_s
        self.compute_s += compute_s
        self.output_s += output_s

    def add(self, other: "Batches") -> None:
        self.count += other.count
        self.input_s += other.input_s
        self.compute_s += other.compute_s
        self.output_s += other.output_s


class Series:
    """What one thread has seen of one (model, version, device).

    Attributes:
        request_s, queue_s, compute_s: one observation for each request answered, in seconds.
        batch_rows: one observation for each run.
        rows: rows of the requests answered.
        input_s, output_s: seconds of joining inputs and of taking outputs apart, counted once for each request.
        failures, failed_s: requests that failed by status, and the seconds they took in all.
        batches: runs by their rows.
        reasons: why requests were sent to this device.
        prediction: what requests took from their route to their outcome, divided by what was predicted.
        late: outcomes that came when their request had ended already, and were dropped.
        last_s: when the last request was answered, in seconds since the epoch.
    """

    __slots__ = (
        "batch_rows",
        "batches",
        "compute_s",
        "failed_s",
        "failures",
        "input_s",
        "last_s",
        "late",
        "output_s",
        "prediction",
        "queue_s",
        "reasons",
        "request_s",
        "rows",
    )

    def __init__(self) -> None:
        self.request_s = Histogram(SECONDS)
        self.queue_s = Histogram(SECONDS)
        self.compute_s = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.rows = 0
        self.input_s = 0.0
        self.output_s = 0.0
        self.failures: defaultdict[str, int] = defaultdict(int)
        self.failed_s = 0.0
        self.batches: defaultdict[int, Batches] = defaultdict(Batches)
        self.reasons: defaultdict[str, int] = defaultdict(int)
        self.prediction = Histogram(RATIOS)
        self.late = 0
        self.last_s = 0.0

    @property
    def answered(self) -> int:
        """Requests answered."""
        return sum(self.request_s.counts)

    @property
    def executions(self) -> int:
        """Runs."""
        return sum(self.batch_rows.counts)

    def add(self, other: "Series") -> None:
        for histogram, addend in (
            (self.request_s, other.request_s),
            (self.queue_s, other.queue_s),
            (self.compute_s, other.compute_s),
            (self.batch_rows, other.batch_rows),
            (self.prediction, other.prediction),
        ):
            histogram.add(addend)
        self.rows += other.rows
        self.input_s += other.input_s
        self.output_s += other.output_s
        self.failed_s += other.failed_s
        self.last_s = max(self.last_s, other.last_s)
        self.late += other.late
        for counts, addends in ((self.failures, other.failures), (self.reasons, other.reasons)):
            for label, count in list(addends.items()):
                counts[label] += count
        for rows, batches in list(other.batches.items()):
            self.batches[rows].add(batches)


@dataclass(frozen=True)
class DeviceState:
    """How a device stands at this moment.

    Attributes:
        in_flight: requests waiting for it or running on it.
        up: whether it works.
        restarts: how often its process had to be replaced.
    """

    in_flight: int
    up: bool
    restarts: int


class Metrics:
    """All the series of one server, and a Prometheus collector over them.

    Args:
        devices: how each device stands; asked for on every scrape.
    """

    def __init__(self, devices: Callable[[], dict[str, DeviceState]] = dict) -> None:
        self._devices = devices
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

    def by_model(self) -> dict[tuple[str, str], Series]:
        """The same summed over devices, by model and version; without what named no model that exists."""
        models: defaultdict[tuple[str, str], Series] = defaultdict(Series)
        for (model, version, _), series in self.totals().items():
            if version:
                models[model, version].add(series)
        return models

    def by_device(self, model: str, version: str) -> dict[str, Series]:
        """The series of one model version, by device."""
        return {key[2]: series for key, series in self.totals().items() if key[:2] == (model, version)}

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; the interface that prometheus_client's registry calls."""
        labels = ["model", "version", "device"]
        requests = CounterMetricFamily("turnout_requests", "Requests answered.", labels=labels)
        failures = CounterMetricFamily("turnout_request_failures", "Requests that failed, by status.", labels=[*labels, "code"])
        late = CounterMetricFamily("turnout_late_results", "Outcomes dropped: their request had ended.", labels=labels)
        routes = CounterMetricFamily(
            "turnout_routes", "Requests answered, by why they were sent to the device.", labels=[*labels, "reason"]
        )
        histograms = {
            "request_s": ("turnout_request_seconds", "From the message's arrival to its answer."),
            "queue_s": ("turnout_queue_seconds", "Waiting for the device."),
            "compute_s": ("turnout_compute_seconds", "Running on the device."),
            "batch_rows": ("turnout_batch_rows", "Rows executed together, one observation a run."),
            "prediction": ("turnout_prediction_ratio", "Time from route to outcome, divided by the predicted time."),
        }
        families = {name: HistogramMetricFamily(*text, labels=labels) for name, text in histograms.items()}
        for key, series in sorted(self.totals().items()):
            for code, count in series.failures.items():
                failures.add_metric([*key, code], count)
            if not key[2]:  # failed before it had a device: there is nothing else to tell
                continue
            requests.add_metric(key, series.answered)
            late.add_metric(key, series.late)
            for reason, count in series.reasons.items():
                routes.add_metric([*key, reason], count)
            for name, family in families.items():
                histogram: Histogram = getattr(series, name)
                family.add_metric(key, histogram.cumulative(), histogram.total)
        yield from (requests, failures, late, routes, *families.values(), *self._device_families())

    def _device_families(self) -> tuple[Metric, ...]:
        in_flight = GaugeMetricFamily("turnout_in_flight", "Requests waiting or running.", labels=["device"])
        up = GaugeMetricFamily("turnout_device_up", "1 while the device works.", labels=["device"])
        restarts = CounterMetricFamily("turnout_device_restarts", "Processes replaced.", labels=["device"])
        for device, state in self._devices().items():
            in_flight.add_metric([device], state.in_flight)
            up.add_metric([device], int(state.up))
            restarts.add_metric([device], state.restarts)
        return in_flight, up, restarts
