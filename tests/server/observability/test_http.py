import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge
from turnout_server.core.errors import NotFound
from turnout_server.explain import http as queries
from turnout_server.explain.answer import Explanation, Question
from turnout_server.observability.http import MonitoringServer


class Monitored:
    """A monitoring server on a free port, and the readiness that it reports."""

    def __init__(self) -> None:
        self.ready = False
        registry = CollectorRegistry()
        Gauge("answer", "To everything.", registry=registry).set(42)
        self.server = MonitoringServer("127.0.0.1", 0, registry, lambda: self.ready, self.explain)

    def explain(self, question: Question) -> Explanation:
        if question.model != "adds":
            raise NotFound(f"there is no '{question.model}'")
        return Explanation("adds", "1", question.rows, "auto", "latency", None, None, (), device="cpu", reason="only-device")

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def monitored() -> Iterator[Monitored]:
    monitored = Monitored()
    monitored.server.start()
    yield monitored
    monitored.server.stop()


def test_metrics_are_what_the_registry_holds(monitored: Monitored) -> None:
    status, text = monitored.get("/metrics")
    assert status == 200
    assert "answer 42.0" in text


def test_liveness_does_not_depend_on_readiness(monitored: Monitored) -> None:
    assert (monitored.get("/healthz")[0], monitored.get("/readyz")[0]) == (200, 503)
    monitored.ready = True
    assert (monitored.get("/healthz")[0], monitored.get("/readyz")[0]) == (200, 200)


def test_an_explanation_is_json_and_an_error_is_plain_text(monitored: Monitored) -> None:
    status, text = monitored.get("/explain?model=adds&rows=3")
    assert (status, queries.explanation_of(text).rows) == (200, 3)
    assert monitored.get("/explain?model=adds&rows=x") == (400, "rows: 'x' is not a whole number\n")
    assert monitored.get("/explain?model=other") == (404, "there is no 'other'\n")


def test_an_unknown_path_is_answered_with_those_that_exist(monitored: Monitored) -> None:
    status, text = monitored.get("/")
    assert status == 404
    assert "/metrics" in text


def test_a_port_in_use_is_named_in_the_error(monitored: Monitored) -> None:
    port = monitored.server.port
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: "):
        MonitoringServer("127.0.0.1", port, CollectorRegistry(), lambda: True, monitored.explain)
