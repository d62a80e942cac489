"""OpenTelemetry traces of inferences: a span for each request, with its steps as children (extra `otel`).

A request's spans are made when it has ended, from times that it has anyway. So a server without traces pays one comparison for
each request, and one with traces pays only for those that are sampled. OpenTelemetry's own variables say how many that are
(OTEL_TRACES_SAMPLER) and where they go (OTEL_EXPORTER_OTLP_ENDPOINT).
"""

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from turnout_server.core.errors import ServingError, status_of
from turnout_server.core.messages import InferRequest, InferResponse

_METHOD = {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer"}
_NAME = "inference.GRPCInferenceService/ModelInfer"
_CONTEXT = TraceContextTextMapPropagator()


class RequestSpan:
    """The span of one request that has its outcome, but isn't encoded yet.

    Attributes:
        traceparent: its context for the client, in W3C's format; empty if it isn't sampled.
    """

    def __init__(self, tracer: trace.Tracer, span: trace.Span, clock_ns: int) -> None:
        self._tracer, self._span, self._clock_ns = tracer, span, clock_ns
        carrier: dict[str, str] = {}
        if span.is_recording():
            _CONTEXT.inject(carrier, trace.set_span_in_context(span))
        self.traceparent = carrier.get("traceparent", "")

    def end(self, request: InferRequest, outcome: InferResponse | ServingError, encoding_s: float) -> None:
        """Adds the steps, and ends the span now.

        Args:
            encoding_s: when encoding the answer began, on the monotonic clock.
        """
        if not self._span.is_recording():
            return
        now_s = time.monotonic()
        self._span.set_attributes({"turnout.model": request.model, "turnout.request_id": request.id})
        self._child("decode", request.arrived_s, request.arrived_s + request.decode_us * 1e-6, {})
        if isinstance(outcome, ServingError):
            code = status_of(outcome)
            self._span.set_attribute("rpc.grpc.status_code", code)
            self._span.set_status(Status(StatusCode.ERROR, str(outcome)))
        else:
            ran, timings = outcome.provenance, outcome.timings
            where = {"turnout.device": ran.device, "turnout.route_reason": ran.route_reason}
            self._span.set_attributes({**where, "turnout.version": ran.version, "turnout.precision": ran.precision})
            started_s = encoding_s - timings["compute_us"] * 1e-6
            self._child("queue", started_s - timings["queue_us"] * 1e-6, started_s, where)
            self._child("run", started_s, encoding_s, {**where, "turnout.batch_size": timings["batch_size"]})
            self._child("encode", encoding_s, now_s, {})
        self._span.end(self._ns(now_s))

    def _child(self, name: str, began_s: float, ended_s: float, attributes: Mapping[str, Any]) -> None:
        context = trace.set_span_in_context(self._span)
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=self._ns(began_s))
        span.end(self._ns(ended_s))

    def _ns(self, at_s: float) -> int:
        """A time on the monotonic clock as nanoseconds since the epoch."""
        return self._clock_ns + int(at_s * 1e9)


class Spans:
    """Makes the spans of one server. Any thread may call any method.

    Args:
        name, version: the server's; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        processor: receives the spans that have ended; by default they are sent in batches to an OTLP endpoint, over HTTP.
    """

    def __init__(self, name: str, version: str, processor: SpanProcessor | None = None) -> None:
        own = Resource({"service.name": name, "service.version": version})
        resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(_exporter()))
        self._tracer = self._provider.get_tracer("turnout", version)
        self._clock_ns = time.time_ns() - time.monotonic_ns()

    def begin(self, metadata: Mapping[str, str], arrived_s: float) -> RequestSpan:
        """The span of a request that came with this metadata; its parent is the span in `traceparent`, if there is one."""
        start_ns = self._clock_ns + int(arrived_s * 1e9)
        parent = _CONTEXT.extract(metadata)
        span = self._tracer.start_span(_NAME, parent, SpanKind.SERVER, _METHOD, start_time=start_ns)
        return RequestSpan(self._tracer, span, self._clock_ns)

    def stop(self) -> None:
        """Sends what has ended and wasn't sent yet."""
        self._provider.shutdown()


def _exporter() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415, tests need none

    return OTLPSpanExporter()
