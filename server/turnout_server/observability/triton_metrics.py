"""The server's counts under Triton's metric names, for dashboards made for Triton.

Names and labels: triton-inference-server/core, src/metrics.cc. Durations there are cumulative microseconds in counters without
the suffix `_total`, which prometheus_client writes only as untyped metrics; `rate()` works on those all the same.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric, UnknownMetricFamily

from turnout_server.core.metrics import Metrics, Series
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion

#: Triton's reasons for a failure, by status; everything else is OTHER.
_REASONS: Final = {"RESOURCE_EXHAUSTED": "REJECTED", "DEADLINE_EXCEEDED": "REJECTED", "CANCELLED": "CANCELED"}

_FAMILIES: Final[dict[str, tuple[str, Callable[[Series], float]]]] = {
    "nv_inference_request_success": ("Requests answered.", lambda s: s.answered),
    "nv_inference_count": ("Rows of the requests answered.", lambda s: s.rows),
    "nv_inference_exec_count": ("Runs.", lambda s: s.executions),
    "nv_inference_request_duration_us": ("Time of answered requests.", lambda s: s.request_s.total * 1e6),
    "nv_inference_queue_duration_us": ("Time in queues.", lambda s: s.queue_s.total * 1e6),
    "nv_inference_compute_input_duration_us": ("Time of batching inputs.", lambda s: s.input_s * 1e6),
    "nv_inference_compute_infer_duration_us": ("Time of running.", lambda s: s.compute_s.total * 1e6),
    "nv_inference_compute_output_duration_us": ("Time of splitting outputs.", lambda s: s.output_s * 1e6),
    # Before version 2 Triton had one name for the three; its dashboards for AWS, GCP and OCI still ask for it.
    "nv_inference_compute_duration_us": (
        "Time of batching, running and splitting.",
        lambda s: (s.input_s + s.compute_s.total + s.output_s) * 1e6,
    ),
}
_LABELS: Final = ["model", "version"]


class TritonMetrics:
    """A Prometheus collector over the same series, summed over devices, as Triton labels them.

    Args:
        versions: returns the loaded model versions; called on every scrape.
        requests: returns how many requests wait for a model on a device, and how many run there.
    """

    def __init__(
        self,
        metrics: Metrics,
        versions: Callable[[], list[ModelVersion]],
        requests: Callable[[Deployment], tuple[int, int]],
    ) -> None:
        self._metrics = metrics
        self._versions = versions
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; the interface that prometheus_client's registry calls."""
        by_model = self._metrics.by_model()
        for name, (documentation, value) in _FAMILIES.items():
            family = UnknownMetricFamily(name, documentation, labels=_LABELS)
            for key, series in by_model.items():
                family.add_metric(key, value(series))
            yield family
        failures = UnknownMetricFamily("nv_inference_request_failure", "Requests that failed.", labels=[*_LABELS, "reason"])
        ratio = HistogramMetricFamily("nv_inference_load_ratio", "Time of a request by the time of its run.", labels=_LABELS)
        for key, series in by_model.items():
            ratio.add_metric(key, series.load_ratio.cumulative(), series.load_ratio.total)
            for reason, count in _failures(series).items():
                failures.add_metric([*key, reason], count)
        yield from (failures, ratio)
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests that wait for a run.", labels=_LABELS)
        load = GaugeMetricFamily("nv_model_load_duration_secs", "Seconds of opening it on all its devices.", labels=_LABELS)
        for version in self._versions():
            deployments = [deployment for device in version.deployments for deployment in version.on(device)]
            model = [version.name, str(version.version)]
            pending.add_metric(model, sum(self._requests(deployment)[0] for deployment in deployments))
            load.add_metric(model, sum(deployment.report.load_s for deployment in deployments))
        yield from (pending, load)


def _failures(series: Series) -> dict[str, int]:
    counts: dict[str, int] = {}
    for code, count in series.failures.items():
        reason = _REASONS.get(code, "OTHER")
        counts[reason] = counts.get(reason, 0) + count
    return counts
