import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message

import pytest
from prometheus_client import CollectorRegistry, Gauge
from turnout_server.observability.http import MonitoringServer, plain, probe


class Monitored:
    """A monitoring server on a free port, and the readiness that it reports."""

    def __init__(self) -> None:
        self.ready = False
        registry = CollectorRegistry()
        Gauge("answer", "To everything.", registry=registry).set(42)
        routes = {"/ready": probe(lambda: self.ready, "yes", "no"), "/echo": lambda query: plain("200 OK", query)}
        self.server = MonitoringServer("127.0.0.1", 0, registry, routes)

    def get(self, path: str) -> tuple[int, str]:
        status, _, body = self.ask("GET", path)
        return status, body

    def ask(self, method: str, path: str) -> tuple[int, Message, str]:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", method=method)
        try:
            with urllib.request.urlopen(asked, timeout=10) as response:
                return response.status, response.headers, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()


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


def test_a_probe_is_200_while_it_holds_and_503_while_it_does_not(monitored: Monitored) -> None:
    assert monitored.get("/ready") == (503, "no\n")
    monitored.ready = True
    assert monitored.get("/ready") == (200, "yes\n")


def test_a_route_gets_the_query_string(monitored: Monitored) -> None:
    assert monitored.get("/echo?a=1&b=2") == (200, "a=1&b=2\n")


@pytest.mark.parametrize("path", ["/metrics", "/ready", "/echo?a=1", "/nowhere"])
def test_head_is_get_without_its_body(monitored: Monitored, path: str) -> None:
    status, headers, body = monitored.ask("GET", path)
    head_status, head_headers, nothing = monitored.ask("HEAD", path)
    assert (head_status, head_headers["Content-Type"], nothing) == (status, headers["Content-Type"], "")
    assert head_headers["Content-Length"] == headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/ready"])
def test_other_methods_are_refused(monitored: Monitored, method: str, path: str) -> None:
    status, headers, _ = monitored.ask(method, path)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_an_unknown_path_is_answered_with_those_that_exist(monitored: Monitored) -> None:
    status, text = monitored.get("/")
    assert status == 404
    assert "/metrics" in text


def test_a_port_in_use_is_named_in_the_error(monitored: Monitored) -> None:
    port = monitored.server.port
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: "):
        MonitoringServer("127.0.0.1", port, CollectorRegistry(), {})
