"""Traces of a running server, received by a collector over OTLP."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.servers import RunningServer, running
from tests.wire import parameters, request

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry isn't installed here: make install")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROW = {"x": np.ones((1, 8), np.float32)}


class Collector:
    """Receives spans at the path that OTLP over HTTP sends them to."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self._grown = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer._receive(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",  # ms between two batches
        }

    def _receive(self, body: bytes) -> None:
        received = ExportTraceServiceRequest.FromString(body)
        found = [span for resource in received.resource_spans for scope in resource.scope_spans for span in scope.spans]
        with self._grown:
            self.spans += found
            self._grown.notify_all()

    def wait_for(self, count: int, timeout_s: float = 20) -> list[Any]:
        with self._grown:
            assert self._grown.wait_for(lambda: len(self.spans) >= count, timeout_s), [span.name for span in self.spans]
            return list(self.spans)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def serve(folder: Path, transport: str, variables: dict[str, str]) -> Any:
    models.save(folder / "models", "mlp", models.mlp())
    return running(folder / "models", "--otel", transport=transport, env=variables)


def infer(server: RunningServer, *, sampled: bool) -> dict[str, Any]:
    """Asks with a context as a traced client would; returns the response's parameters."""
    metadata = [("traceparent", f"00-{TRACE}-{PARENT}-0{int(sampled)}")]
    return parameters(server.stub.ModelInfer(request("mlp", ROW), metadata=metadata, timeout=10))


def test_a_request_is_traced_from_its_client_through_its_steps(tmp_path: Path, transport: str, collector: Collector) -> None:
    with serve(tmp_path, transport, collector.variables) as server:
        answered = infer(server, sampled=True)
        spans = {span.name.rpartition("/")[2]: span for span in collector.wait_for(5)}
    assert set(spans) == {"ModelInfer", "decode", "queue", "run", "encode"}
    whole = spans["ModelInfer"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    assert answered["traceparent"] == f"00-{TRACE}-{whole.span_id.hex()}-01"
    attributes = {each.key: each.value.string_value for each in spans["run"].attributes}
    assert (attributes["turnout.device"], attributes["turnout.route_reason"]) == ("cpu", "only-device")


def test_what_was_not_sampled_is_answered_like_without_traces(tmp_path: Path, collector: Collector) -> None:
    with serve(tmp_path, "completion-queue", collector.variables) as server:
        assert "traceparent" not in infer(server, sampled=False)
        infer(server, sampled=True)
        assert len({span.trace_id for span in collector.wait_for(5)}) == 1
        assert len(collector.spans) == 5


def test_a_collector_that_is_gone_harms_no_request(tmp_path: Path) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with serve(tmp_path, "completion-queue", variables) as server:
        for _ in range(3):
            assert infer(server, sampled=True)["device"] == "cpu"
