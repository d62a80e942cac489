"""The server's counts under Triton's metric names, for dashboards made for Triton.

Names and labels: triton-inference-server/core, src/metrics.cc. Durations there are cumulative microseconds in counters without
the suffix `_total`, which prometheus_client writes only as untyped metrics; `rate()` works on those all the same.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import UnknownMetricFamily

from turnout_server.core.metrics import Metrics, Series

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
}


class TritonMetrics:
    """A Prometheus collector over the same series, summed over devices, as Triton labels them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[UnknownMetricFamily]:
        """Yields the metric families; the interface that prometheus_client's registry calls."""
        by_model = self._metrics.by_model()
        for name, (documentation, value) in _FAMILIES.items():
            family = UnknownMetricFamily(name, documentation, labels=["model", "version"])
            for key, series in by_model.items():
                family.add_metric(key, value(series))
            yield family
        failures = UnknownMetricFamily(
            "nv_inference_request_failure", "Requests that failed.", labels=["model", "version", "reason"]
        )
        for key, series in by_model.items():
            for reason, count in _failures(series).items():
                failures.add_metric([*key, reason], count)
        yield failures


def _failures(series: Series) -> dict[str, int]:
    counts: dict[str, int] = {}
    for code, count in series.failures.items():
        reason = _REASONS.get(code, "OTHER")
        counts[reason] = counts.get(reason, 0) + count
    return counts
