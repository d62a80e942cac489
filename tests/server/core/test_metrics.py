import threading

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from turnout_server.core.metrics import NOBODY, DeviceState, Histogram, Metrics

KEY = ("m", "1", "cpu")


@given(st.lists(st.floats(0, 10)), st.lists(st.floats(0, 10)))
def test_histograms_add_up(one: list[float], other: list[float]) -> None:
    together, a, b = Histogram((1.0, 2.0, 5.0)), Histogram((1.0, 2.0, 5.0)), Histogram((1.0, 2.0, 5.0))
    for value in one:
        a.observe(value)
    for value in other:
        b.observe(value)
    for value in [*one, *other]:
        together.observe(value)
    a.add(b)
    assert a.cumulative() == together.cumulative()
    for bound, count in together.cumulative():
        assert count == sum(value <= float(bound) for value in [*one, *other])


def test_totals_sum_the_series_of_all_threads() -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(100):
            metrics.series(KEY).request_s.observe(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.totals()[KEY].answered == 400


def samples(metrics: Metrics) -> dict[str, float]:
    """The samples that Prometheus reads: values by `name{labels}`."""
    registry = CollectorRegistry()
    registry.register(metrics)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {f"{s.name}{sorted(s.labels.items())}": s.value for family in families for s in family.samples}


def test_prometheus_reads_counts_and_durations() -> None:
    metrics = Metrics(lambda: {"cpu": DeviceState(waiting=2, running=1, up=True, restarts=2, busy_w=95)})
    series = metrics.series(KEY)
    series.request_s.observe(0.004)
    series.failures["RESOURCE_EXHAUSTED"] += 2
    labels = "('device', 'cpu'), ('model', 'm'), ('version', '1')"
    read = samples(metrics)
    assert read[f"turnout_requests_total[{labels}]"] == 1
    assert read[f"turnout_request_seconds_count[{labels}]"] == 1
    assert read[f"turnout_request_seconds_sum[{labels}]"] == 0.004
    assert read["turnout_request_failures_total[('code', 'RESOURCE_EXHAUSTED'), " + labels + "]"] == 2
    assert read["turnout_in_flight[('device', 'cpu')]"] == 3
    assert read["turnout_device_watts[('device', 'cpu'), ('state', 'busy')]"] == 95
    assert "turnout_device_watts[('device', 'cpu'), ('state', 'idle')]" not in read


def test_a_device_is_busy_as_long_as_its_runs_take_however_many_requests_share_them() -> None:
    metrics = Metrics()
    series = metrics.series(KEY)
    series.batches[4].observe(0.25, 0.5, 0.125)
    for _ in range(4):
        series.compute_s.observe(0.5)
    assert samples(metrics)["turnout_busy_seconds_total[('device', 'cpu'), ('model', 'm'), ('version', '1')]"] == 0.875


def test_a_run_on_one_core_of_four_keeps_a_quarter_of_the_device_busy() -> None:
    series = Metrics().series(KEY)
    series.batches[1].observe(0.25, 0.5, 0.25, cores=4)
    assert series.busy_s == 0.25
    assert series.batches[1].compute_s == 0.5


def test_expected_series_are_there_before_anything_is_counted() -> None:
    metrics = Metrics(expected=lambda: [KEY, ("m", "1", "")], reasons=("earliest", "spill"), codes=("INTERNAL",))
    labels = "('device', 'cpu'), ('model', 'm')"
    before = samples(metrics)
    assert before[f"turnout_requests_total[{labels}, ('version', '1')]"] == 0
    assert before[f"turnout_request_seconds_count[{labels}, ('version', '1')]"] == 0
    assert before[f"turnout_routes_total[{labels}, ('reason', 'spill'), ('version', '1')]"] == 0
    for device in ("", "cpu"):
        failures = (
            f"turnout_request_failures_total[('code', 'INTERNAL'), ('device', '{device}'), ('model', 'm'), ('version', '1')]"
        )
        assert before[failures] == 0
    metrics.series(KEY).reasons["spill"] += 1
    assert samples(metrics)[f"turnout_routes_total[{labels}, ('reason', 'spill'), ('version', '1')]"] == 1
    assert set(samples(metrics)) == set(before)
    assert metrics.totals().keys() == {KEY}  # what was counted is unchanged


def test_prometheus_reads_routes_by_reason_late_results_and_prediction_ratios() -> None:
    metrics = Metrics()
    series = metrics.series(KEY)
    series.reasons["earliest"] += 3
    series.reasons["spill"] += 1
    series.late += 2
    for ratio in (0.95, 1.0, 3.0):
        series.prediction.observe(ratio)
    labels = "('device', 'cpu'), ('model', 'm')"
    read = samples(metrics)
    for reason, count in (("earliest", 3), ("spill", 1)):
        assert read[f"turnout_routes_total[{labels}, ('reason', '{reason}'), ('version', '1')]"] == count
    assert read[f"turnout_late_results_total[{labels}, ('version', '1')]"] == 2
    for bound, count in (("0.9", 0), ("1.0", 2), ("2.0", 2), ("4.0", 3), ("+Inf", 3)):
        bucket = f"turnout_prediction_ratio_bucket[('device', 'cpu'), ('le', '{bound}'), ('model', 'm'), ('version', '1')]"
        assert read[bucket] == count


def test_totals_sum_routes_predictions_and_late_results_of_all_threads() -> None:
    metrics = Metrics()

    def work() -> None:
        series = metrics.series(KEY)
        series.reasons["earliest"] += 1
        series.late += 1
        series.prediction.observe(1.0)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = metrics.totals()[KEY]
    assert (total.reasons, total.late, sum(total.prediction.counts)) == ({"earliest": 3}, 3, 3)


def test_requests_for_unknown_models_share_one_series_that_only_has_failures() -> None:
    metrics = Metrics()
    metrics.series(NOBODY).failures["NOT_FOUND"] += 1
    read = samples(metrics)
    assert [name for name in read if "unknown" in name and read[name]] == [
        "turnout_request_failures_total[('code', 'NOT_FOUND'), ('device', ''), ('model', 'unknown'), ('version', '')]"
    ]
    assert metrics.by_model() == {}


def test_by_model_sums_over_the_devices() -> None:
    metrics = Metrics()
    for device, rows in (("cpu", 1), ("cuda:0", 2)):
        metrics.series(("m", "1", device)).rows += rows
    assert metrics.by_model()["m", "1"].rows == 3
