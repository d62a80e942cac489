"""Spans of requests, and what they tell."""

import time
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import Overloaded
from turnout_server.core.messages import InferRequest, InferResponse, Provenance
from turnout_server.core.signatures import Signature

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry isn't installed here: make install")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from turnout_server.observability.spans import Spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Recorded:
    """Spans that are kept instead of sent."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.spans = Spans("box", "1.2", SimpleSpanProcessor(self._exporter))

    def record(self, metadata: dict[str, str], outcome: Any) -> str:
        """Records a request that ends now; returns its context."""
        now_s = time.monotonic()
        asked = InferRequest("m", "", "r7", {"x": np.zeros((1, 1))}, arrived_s=now_s - 1, decode_us=1000)
        span = self.spans.begin(metadata, asked.arrived_s)
        span.end(asked, outcome, now_s)
        return span.traceparent

    @property
    def by_name(self) -> dict[str, Any]:
        return {span.name.rpartition("/")[2]: span for span in self._exporter.get_finished_spans()}


def response() -> InferResponse:
    provenance = Provenance("m", "3", "cuda:0", "auto", "earliest", "fp16")
    timings = {"decode_us": 1000, "queue_us": 300_000, "compute_us": 200_000, "batch_size": 4}
    return InferResponse(provenance, "r7", Signature((), (), 0), {}, timings)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    return Recorded()


def test_a_request_is_a_span_with_its_steps_as_children(recorded: Recorded) -> None:
    recorded.record({}, response())
    found = recorded.by_name
    assert list(found) == ["decode", "queue", "run", "encode", "ModelInfer"]
    assert {found[name].parent.span_id for name in ("decode", "queue", "run", "encode")} == {
        found["ModelInfer"].context.span_id
    }


def test_spans_say_where_it_ran_and_why(recorded: Recorded) -> None:
    recorded.record({}, response())
    whole = recorded.by_name["ModelInfer"].attributes
    assert (whole["turnout.model"], whole["turnout.version"], whole["turnout.request_id"]) == ("m", "3", "r7")
    for name in ("ModelInfer", "queue", "run"):
        attributes = recorded.by_name[name].attributes
        assert (attributes["turnout.device"], attributes["turnout.route_reason"]) == ("cuda:0", "earliest")
    assert recorded.by_name["run"].attributes["turnout.batch_size"] == 4


def test_the_steps_have_their_times(recorded: Recorded) -> None:
    recorded.record({}, response())
    for name, seconds in (("decode", 0.001), ("queue", 0.3), ("run", 0.2)):
        span = recorded.by_name[name]
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(seconds, abs=1e-6)
    whole, queue, run = (recorded.by_name[name] for name in ("ModelInfer", "queue", "run"))
    assert queue.end_time == pytest.approx(run.start_time, abs=1000)
    assert 1.0 <= (whole.end_time - whole.start_time) / 1e9 < 2.0
    assert abs(whole.end_time / 1e9 - time.time()) < 5


def test_the_callers_context_is_the_parent_and_the_client_gets_ours(recorded: Recorded) -> None:
    ours = recorded.record(SAMPLED, response())
    span = recorded.by_name["ModelInfer"]
    assert (format(span.context.trace_id, "032x"), format(span.parent.span_id, "016x")) == (TRACE, PARENT)
    assert ours == f"00-{TRACE}-{span.context.span_id:016x}-01"


def test_a_request_that_its_caller_does_not_sample_leaves_no_span(recorded: Recorded) -> None:
    assert recorded.record({"traceparent": f"00-{TRACE}-{PARENT}-00"}, response()) == ""
    assert not recorded.by_name


@pytest.mark.parametrize("context", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_a_context_that_is_none_starts_a_trace(recorded: Recorded, context: str) -> None:
    recorded.record({"traceparent": context}, response())
    assert recorded.by_name["ModelInfer"].parent is None


def test_the_share_of_sampled_requests_comes_from_opentelemetrys_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    recorded = Recorded()
    assert recorded.record({}, response()) == ""
    assert recorded.record(SAMPLED, response())  # the caller decides


def test_a_failed_request_has_its_status_and_no_run(recorded: Recorded) -> None:
    recorded.record({}, Overloaded("the queue is full"))
    whole = recorded.by_name["ModelInfer"]
    assert (whole.status.status_code.name, whole.attributes["rpc.grpc.status_code"]) == ("ERROR", "RESOURCE_EXHAUSTED")
    assert set(recorded.by_name) == {"ModelInfer", "decode"}


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [("", "", "box"), ("OTEL_SERVICE_NAME", "other", "other"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=third", "third")],
)
def test_the_service_is_called_like_the_server_unless_a_variable_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str
) -> None:
    for each in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(each, raising=False)
    if variable:
        monkeypatch.setenv(variable, value)
    recorded = Recorded()
    recorded.record({}, response())
    resource = recorded.by_name["ModelInfer"].resource.attributes
    assert (resource["service.name"], resource["service.version"]) == (name, "1.2")
