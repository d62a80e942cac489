"""Metrics of each model on each device: what loading it showed, and how many requests wait and run now."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion

_LABELS = ["model", "version", "device"]


class ModelMetrics:
    """A Prometheus collector.

    Args:
        versions: returns the loaded model versions; called on every scrape.
        requests: returns how many requests wait for a model on a device, and how many run there.
    """

    def __init__(self, versions: Callable[[], list[ModelVersion]], requests: Callable[[Deployment], tuple[int, int]]) -> None:
        self._versions = versions
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """Yields the metric families; the interface that prometheus_client's registry calls."""
        load = GaugeMetricFamily("turnout_model_load_seconds", "Opening the model on the device.", labels=_LABELS)
        nodes = GaugeMetricFamily("turnout_model_nodes", "Nodes of its graph by provider.", labels=[*_LABELS, "provider"])
        parity = GaugeMetricFamily("turnout_model_parity_error", "Largest relative error of its outputs.", labels=_LABELS)
        available = GaugeMetricFamily("turnout_model_available", "1 if the model runs on the device.", labels=_LABELS)
        batch = GaugeMetricFamily("turnout_batch_cap_rows", "The most rows worth batching in one run.", labels=_LABELS)
        batchable = GaugeMetricFamily("turnout_model_joins", "1 if requests may be batched.", labels=_LABELS[:2])
        waiting = GaugeMetricFamily("turnout_waiting_requests", "Requests in the device's queue.", labels=_LABELS)
        running = GaugeMetricFamily("turnout_running_requests", "Requests in runs in progress.", labels=_LABELS)
        for version in self._versions():
            key = [version.name, str(version.version)]
            batchable.add_metric(key, int(version.batchable))
            for device in version.unavailable:
                available.add_metric([*key, device], 0)
            for device, deployment in version.deployments.items():
                available.add_metric([*key, device], 1)
                report = deployment.report
                requests = [self._requests(each) for each in version.on(device)]
                waiting.add_metric([*key, device], sum(waits for waits, _ in requests))
                running.add_metric([*key, device], sum(runs for _, runs in requests))
                batch.add_metric([*key, device], deployment.effective_max_batch)
                load.add_metric([*key, device], report.load_s)
                for provider, count in report.placement.items():
                    nodes.add_metric([*key, device, provider], count)
                if report.parity.error is not None:
                    parity.add_metric([*key, device], report.parity.error)
        yield from (waiting, running, load, nodes, parity, available, batchable, batch)
