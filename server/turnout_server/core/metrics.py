"""Counts and durations, kept per thread and summed when they are read.

Counting a request costs a few list additions and no lock, because each thread writes only its own series. Readers sum the
series of all threads. They may see a request that is only partly counted yet, but no request is counted twice or lost.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Bounds for actual time divided by predicted time; 1 is an exact prediction.
RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Bounds for the time of a request divided by the time of its run; 1 is a request that waited for nothing.
LOAD_RATIOS = (1.05, 1.1, 1.25, 1.5, 2.0, 10.0, 50.0)

#: The (model, version, device) of a series. NOBODY is the key for requests that named no existing model.
Key = tuple[str, str, str]
NOBODY: Key = ("unknown", "", "")


class Histogram:
    """Counts of values by bucket.

    Attributes:
        bounds: the buckets' inclusive upper bounds; one more bucket counts the values above the last bound.
        total: the sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Histogram") -> None:
        self.counts = [own + others for own, others in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, cumulative count) pairs in Prometheus's format, `+Inf` last."""
        pairs, running = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            running += count
            pairs.append((bound, float(running)))
        return pairs


@dataclass(slots=True)
class Batches:
    """Runs of one batch size: their number, and the total seconds of batching inputs, running, and splitting outputs.

    Attributes:
        busy_s: seconds for which they had the device: of a run on one of its cores, a share.
    """

    count: int = 0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0
    busy_s: float = 0.0

    def observe(self, input_s: float, compute_s: float, output_s: float, cores: int = 1) -> None:
        """Adds a run.

        Args:
            cores: how many such runs take the whole device.
        """
        self.count += 1
        self.input_s += input_s
        self.compute_s += compute_s
        self.output_s += output_s
        self.busy_s += (input_s + compute_s + output_s) / cores

    def add(self, other: "Batches") -> None:
        self.count += other.count
        self.input_s += other.input_s
        self.compute_s += other.compute_s
        self.output_s += other.output_s
        self.busy_s += other.busy_s


class Series:
    """What one thread has counted for one (model, version, device).

    Attributes:
        request_s, queue_s, compute_s: one observation per answered request, in seconds.
        batch_rows: one observation per run.
        rows: rows of the answered requests.
        input_s, output_s: seconds of batching inputs and of splitting outputs, counted once per request.
        failures, failed_s: failed requests by status, and the seconds that they took in total.
        batches: runs by number of rows.
        reasons: answered requests by the reason of their route.
        prediction: the time from routing to outcome, divided by the predicted time.
        load_ratio: the time of a request divided by the time of its run.
        late: outcomes dropped because their request had already ended.
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
        "load_ratio",
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
        self.load_ratio = Histogram(LOAD_RATIOS)
        self.late = 0
        self.last_s = 0.0

    @property
    def answered(self) -> int:
        """The number of answered requests."""
        return sum(self.request_s.counts)

    @property
    def executions(self) -> int:
        """The number of runs."""
        return sum(self.batch_rows.counts)

    @property
    def busy_s(self) -> float:
        """Seconds for which runs had the device, with batching their inputs and splitting their outputs."""
        return sum(batches.busy_s for batches in list(self.batches.values()))

    def add(self, other: "Series") -> None:
        for histogram, addend in (
            (self.request_s, other.request_s),
            (self.queue_s, other.queue_s),
            (self.compute_s, other.compute_s),
            (self.batch_rows, other.batch_rows),
            (self.prediction, other.prediction),
            (self.load_ratio, other.load_ratio),
        ):
            histogram.add(addend)
        self.rows += other.rows
        self.input_s += other.input_s
        self.output_s += other.output_s
        self.failed_s += other.failed_s
        self.last_s = max(self.last_s, other.last_s)
        self.late += other.late
        for counts, addends in ((self.failures, other.failures), (self.reasons, other.reasons)):
            for label, count in addends.copy().items():
                counts[label] += count
        for rows, batches in other.batches.copy().items():
            self.batches[rows].add(batches)


@dataclass(frozen=True)
class DeviceState:
    """The current state of a device.

    Attributes:
        waiting, running: requests that wait for it, and that run on it.
        up: whether it works.
        restarts: how often its process was restarted.
        instances: how many runs may be in progress at once.
        idle_w, busy_w: watts that it draws when idle and when busy; None if not known.
    """

    waiting: int
    running: int
    up: bool
    restarts: int
    instances: int = 1
    idle_w: float | None = None
    busy_w: float | None = None


class Metrics:
    """All series of one server, and the Prometheus collector that exposes them.

    Args:
        devices: returns the state of each device; called at every scrape.
        expected: returns the keys that are published before anything was counted for them, so that the first count is seen
            as an increase; called at every scrape.
        reasons, codes: values of the labels `reason` and `code` that are published for these keys from the start, too.
    """

    def __init__(
        self,
        devices: Callable[[], dict[str, DeviceState]] = dict,
        expected: Callable[[], Iterable[Key]] = tuple,
        reasons: Collection[str] = (),
        codes: Collection[str] = (),
    ) -> None:
        self.device_states = devices
        self._expected = expected
        self._reasons = dict.fromkeys(reasons, 0)
        self._codes = dict.fromkeys(codes, 0)
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
        """All series, summed over the threads."""
        totals: defaultdict[Key, Series] = defaultdict(Series)
        for shard in list(self._shards):
            for key, series in shard.copy().items():
                totals[key].add(series)
        return totals

    def published(self) -> dict[Key, Series]:
        """The totals, and empty series for expected keys that have counted nothing yet."""
        totals = self.totals()
        for key in self._expected():
            series = totals[key] if key in totals else totals.setdefault(key, Series())
            series.reasons.update({**self._reasons, **series.reasons})
            series.failures.update({**self._codes, **series.failures})
        return totals

    def by_model(self) -> dict[tuple[str, str], Series]:
        """What is published, summed over devices, by (model, version); without requests that named no existing model."""
        models: defaultdict[tuple[str, str], Series] = defaultdict(Series)
        for (model, version, _), series in self.published().items():
            if version:
                models[model, version].add(series)
        return models

    def by_device(self, model: str, version: str) -> dict[str, Series]:
        """The series of one model version, by device."""
        return {key[2]: series for key, series in self.totals().items() if key[:2] == (model, version)}

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; prometheus_client's registry calls this."""
        labels = ["model", "version", "device"]
        requests = CounterMetricFamily("turnout_requests", "Answered requests.", labels=labels)
        failures = CounterMetricFamily("turnout_request_failures", "Failed requests, by gRPC status.", labels=[*labels, "code"])
        late = CounterMetricFamily("turnout_late_results", "Outcomes of requests that had already ended.", labels=labels)
        routes = CounterMetricFamily(
            "turnout_routes", "Answered requests, by the reason for choosing the device.", labels=[*labels, "reason"]
        )
        busy = CounterMetricFamily(
            "turnout_busy_seconds",
            "Seconds in which runs had the device; a run on one of its cores has a share.",
            labels=labels,
        )
        histograms = {
            "request_s": ("turnout_request_seconds", "Time from a request's arrival to its answer."),
            "queue_s": ("turnout_queue_seconds", "Time in the device's queue."),
            "compute_s": ("turnout_compute_seconds", "Time of the run on the device."),
            "batch_rows": ("turnout_batch_rows", "Rows per run."),
            "prediction": ("turnout_prediction_ratio", "Time from routing to outcome, divided by the predicted time."),
        }
        families = {name: HistogramMetricFamily(*text, labels=labels) for name, text in histograms.items()}
        for key, series in sorted(self.published().items()):
            for code, count in series.failures.items():
                failures.add_metric([*key, code], count)
            if not key[2]:  # these requests failed before a device was chosen, so there are no other metrics
                continue
            requests.add_metric(key, series.answered)
            late.add_metric(key, series.late)
            busy.add_metric(key, series.busy_s)
            for reason, count in series.reasons.items():
                routes.add_metric([*key, reason], count)
            for name, family in families.items():
                histogram: Histogram = getattr(series, name)
                family.add_metric(key, histogram.cumulative(), histogram.total)
        yield from (requests, failures, late, routes, busy, *families.values(), *self._device_families())

    def _device_families(self) -> tuple[Metric, ...]:
        in_flight = GaugeMetricFamily("turnout_in_flight", "Requests that wait or run.", labels=["device"])
        up = GaugeMetricFamily("turnout_device_up", "1 if the device works, else 0.", labels=["device"])
        restarts = CounterMetricFamily("turnout_device_restarts", "Restarts of the device's process.", labels=["device"])
        instances = GaugeMetricFamily("turnout_device_instances", "Runs that may be in progress at once.", labels=["device"])
        watts = GaugeMetricFamily("turnout_device_watts", "Watts that it draws, idle and busy.", labels=["device", "state"])
        for device, state in self.device_states().items():
            in_flight.add_metric([device], state.waiting + state.running)
            up.add_metric([device], int(state.up))
            restarts.add_metric([device], state.restarts)
            instances.add_metric([device], state.instances)
            for name, power_w in (("idle", state.idle_w), ("busy", state.busy_w)):
                if power_w is not None:
                    watts.add_metric([device, name], power_w)
        return in_flight, up, restarts, instances, watts
