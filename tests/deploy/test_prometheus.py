"""The shipped rules and dashboard, and Triton's own dashboards, answered by a real Prometheus that scrapes a running server."""

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import models
from tests.deploy.prometheus import ROOT, Prometheus, prometheus, require
from tests.servers import RunningServer, running
from tests.wire import request

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "turnout.json").read_text())
#: What a dashboard's variables stand for in this test.
VARIABLES = {"$__rate_interval": "10s", '"$instance"': '".*"', '"$model"': '".*"'}

#: Every query of the dashboards in triton-inference-server/server at e1db8a6 (August 2026), deploy/*/dashboard.json.
TRITON_QUERIES = [
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "sum(increase(nv_inference_load_ratio_bucket[1m])) by (le)",
    "rate(nv_inference_queue_duration_us[30s]) / 1000",
    "rate(nv_inference_compute_duration_us[30s]) / 1000",
    "count(count(nv_inference_count) by (instance))",
    "sum by (pod) (rate(nv_inference_count[1m])) / ignoring(pod) group_left sum (rate(nv_inference_count[1m]))",
    "sum(nv_inference_request_success) by (pod)",
    "sum(nv_inference_request_failure) by (pod)",
    "sum(rate(nv_inference_compute_infer_duration_us[30s])) by (model) / 1000",
    "avg(rate(nv_inference_queue_duration_us[30s])/(1+rate(nv_inference_request_success[30s]))) by (pod)",
    "nv_gpu_power_usage",
    "sum(nv_gpu_power_usage)",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_utilization * 100",
    "nv_cpu_memory_used_bytes",
    "nv_cpu_utilization * 100",
]


def panels() -> list[tuple[str, str]]:
    """The title and the expression of each query of the dashboard."""
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def infer(server: RunningServer, rows: int = 2) -> None:
    ones = np.ones((rows, 16), np.float32)
    server.stub.ModelInfer(request("add_sub", {"INPUT0": ones, "INPUT1": ones}), timeout=10)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("models")
    models.save(root, "add_sub", models.add_sub(), configuration="max_batch_size: 8")
    models.save(root, "unused", models.mlp())
    watts = ["--device=cpu={idle_w=20,busy_w=95}"]
    with running(root, *watts) as server:
        yield server


@pytest.fixture(scope="module")
def scraping(served: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a server under load for some seconds."""
    target = served.monitoring.removeprefix("http://")
    with prometheus(tmp_path_factory.mktemp("prometheus"), [target], {"pod": "turnout-0"}) as asked:
        until_s = time.monotonic() + 60
        while not asked.query("rate(turnout_requests_total[4s]) > 0") or not asked.query(
            "model_device:turnout_requests:rate1m"
        ):
            assert time.monotonic() < until_s, asked.get("/api/v1/targets")
            infer(served)
            with pytest.raises(grpc.RpcError):
                served.stub.ModelInfer(request("add_sub", {"INPUT0": np.ones((1, 3), np.float32)}))
            time.sleep(0.05)
        yield asked


def answers(asked: Prometheus, expression: str, *, under_load: RunningServer) -> list[dict[str, Any]]:
    """What an expression gives while requests come."""
    until_s = time.monotonic() + 15
    while not (found := asked.query(expression)) and time.monotonic() < until_s:
        infer(under_load)
        time.sleep(0.2)
    return found


@pytest.mark.parametrize(
    "command",
    [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]],
    ids=" ".join,
)
def test_promtool_accepts_the_configuration_and_the_rules_and_their_tests_pass(command: list[str]) -> None:
    require("promtool")
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_reads_what_the_server_exposes(served: RunningServer) -> None:
    require("promtool")
    done = subprocess.run(["promtool", "check", "metrics"], input=text_of(served), capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("nv_")]  # Triton chose those names
    assert done.returncode in (0, 3), done.stderr  # 3: complaints
    assert not complaints, complaints


@pytest.mark.parametrize(("title", "expression"), panels())
def test_each_panel_of_the_dashboard_is_answered(
    title: str, expression: str, scraping: Prometheus, served: RunningServer
) -> None:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"{title}: a variable that the test doesn't know"
    if "nv_gpu_" in expression:  # there is nothing to find on a machine without a GPU, but the query must be valid
        scraping.query(expression)
    else:
        assert answers(scraping, expression, under_load=served), f"{title}: {expression}"


@pytest.mark.parametrize("expression", TRITON_QUERIES)
def test_each_query_of_tritons_dashboards_is_answered(expression: str, scraping: Prometheus, served: RunningServer) -> None:
    if "nv_gpu_" in expression:
        scraping.query(expression)
    else:
        assert answers(scraping, expression, under_load=served), expression


def test_the_recorded_use_and_rate_are_those_of_the_requests(scraping: Prometheus, served: RunningServer) -> None:
    infer(served)
    assert 0 < scraping.value('instance_device:turnout_use:ratio{device="cpu"}') < 1
    assert scraping.value('model_device:turnout_requests:rate1m{model="add_sub"}') > 0
    assert scraping.value('model_device:turnout_requests:rate1m{model="unused"}') == 0
    assert scraping.value('model:turnout_failures:ratio5m{model="add_sub"}') == 0  # all were the client's mistakes
    assert scraping.value('model:turnout_waiting_requests:avg1m{model="add_sub"}') >= 0


def test_every_metric_of_the_dashboard_and_the_rules_is_documented() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    used = " ".join(expression for _, expression in panels()) + (PROMETHEUS / "rules.yml").read_text()
    for name in sorted(set(metric_names(used))):
        assert f"`{name}`" in documented, name


def test_every_metric_of_a_running_server_is_documented(served: RunningServer) -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    for family in text_string_to_metric_families(text_of(served)):
        names = {family.name, f"{family.name}_total"}
        assert family.name.startswith("process_") or any(f"`{name}`" in documented for name in names), family.name


def test_the_dashboard_is_complete() -> None:
    titles = " ".join(title for title, _ in panels()).lower()
    for subject in ("requests", "latency by device", "route decisions by device and reason", "waiting", "rows per run"):
        assert subject in titles
    for subject in ("device state", "use of the devices", "power"):
        assert subject in titles
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def metric_names(text: str) -> Iterator[str]:
    """Turnout's and Triton's metrics in a text, histograms by their base name; names of recorded series aren't metrics."""
    for prefix, name in re.findall(r"(:?)\b((?:turnout|nv)_[a-z_0-9]+)", text):
        if not prefix:
            yield re.sub(r"_(bucket|sum|count)$", "", name) if name not in ("nv_inference_count",) else name


def text_of(server: RunningServer) -> str:
    with urllib.request.urlopen(f"{server.monitoring}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text
