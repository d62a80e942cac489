"""The server's counts under Triton's names, in the text that Prometheus reads."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from turnout_server.core.metrics import NOBODY, Metrics
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.core.signatures import Signature
from turnout_server.models.deployments import DeviceReport
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.verification import Parity
from turnout_server.observability.triton_metrics import TritonMetrics

from tests.server.fakes import deployment

LABELS = (("model", "m"), ("version", "1"))


def scraped(metrics: Metrics, *versions: ModelVersion) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(TritonMetrics(metrics, lambda: list(versions), lambda deployment: (3, 1)))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_counts_are_summed_over_devices_and_times_are_microseconds() -> None:
    metrics = Metrics()
    for device in ("cpu", "cuda:0"):
        series = metrics.series(("m", "1", device))
        series.request_s.observe(0.5)
        series.load_ratio.observe(4.0)
        series.queue_s.observe(0.25)
        series.compute_s.observe(0.125)
        series.batch_rows.observe(4)
        series.rows += 4
        series.input_s += 1
        series.output_s += 2
    found = {name: value for (name, labels), value in scraped(metrics).items() if labels == LABELS}
    assert found == {
        "nv_inference_request_success": 2,
        "nv_inference_count": 8,
        "nv_inference_exec_count": 2,
        "nv_inference_request_duration_us": 1e6,
        "nv_inference_queue_duration_us": 5e5,
        "nv_inference_compute_input_duration_us": 2e6,
        "nv_inference_compute_infer_duration_us": 25e4,
        "nv_inference_compute_output_duration_us": 4e6,
        "nv_inference_compute_duration_us": 6.25e6,
        "nv_inference_load_ratio_count": 2,
        "nv_inference_load_ratio_sum": 8,
    }


def test_failures_are_counted_by_tritons_reasons() -> None:
    metrics = Metrics()
    failures = metrics.series(("m", "1", "")).failures
    for code in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INVALID_ARGUMENT", "INTERNAL"):
        failures[code] += 1
    found = scraped(metrics)
    counts = {
        reason: found["nv_inference_request_failure", tuple(sorted({**dict(LABELS), "reason": reason}.items()))]
        for reason in ("REJECTED", "CANCELED", "OTHER")
    }
    assert counts == {"REJECTED": 2, "CANCELED": 1, "OTHER": 2}


def test_unknown_model_names_are_not_exported() -> None:
    metrics = Metrics()
    metrics.series(NOBODY).failures["NOT_FOUND"] += 1
    assert scraped(metrics) == {}


def test_a_loaded_model_shows_what_waits_for_it_and_how_long_it_took_to_load_on_all_its_devices() -> None:
    deployments = {
        device: deployment(name="m", device=device, report=DeviceReport(load_s, {}, Parity(None, "")))
        for device, load_s in (("cpu", 0.5), ("cuda:0", 2.0))
    }
    loaded = ModelVersion("m", 1, ModelConfiguration("m"), Signature((), (), 0), deployments, {})
    assert scraped(Metrics(), loaded) == {
        ("nv_inference_pending_request_count", LABELS): 6,
        ("nv_model_load_duration_secs", LABELS): 2.5,
    }
