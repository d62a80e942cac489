"""ModelInfer and ModelStreamInfer."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from turnout_proto.methods import METHODS

from turnout_server.core.errors import ServingError, status_of
from turnout_server.core.messages import InferRequest, InferResponse, nothing_to_cancel
from turnout_server.rpc.decoding import Decoding
from turnout_server.rpc.handlers import status, unexpected
from turnout_server.rpc.infer_stream import Answer, InferStream
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.inline import InlineRunner
from turnout_server.transport.base import Call, Receiver, StreamHandler, UnaryHandler
from turnout_server.wire import codec, responses
from turnout_server.wire.codec import Codec

if TYPE_CHECKING:  # needs the extra `otel`
    from turnout_server.observability.spans import Spans

logger = logging.getLogger(__name__)


class InferenceService:
    """Decodes requests, submits them to the data plane, and answers from the thread that completes them.

    Args:
        inline: runs short jobs in the transport's thread.
        spans: makes an OpenTelemetry span of each request that has been decoded; None makes none.
    """

    def __init__(self, dataplane: DataPlane, codec: Codec, inline: InlineRunner, spans: "Spans | None" = None) -> None:
        self._dataplane = dataplane
        self._codec = codec
        self._inline = inline
        self._decoding = Decoding()
        self._spans = spans

    def unary(self) -> dict[str, UnaryHandler]:
        """Handlers by path."""
        return {METHODS["ModelInfer"].path: self.model_infer}

    def stream(self) -> dict[str, StreamHandler]:
        """Handlers by path."""
        return {METHODS["ModelStreamInfer"].path: self.model_stream_infer}

    def model_infer(self, call: Call, message: bytes) -> None:
        def answer(request_id: str, outcome: bytes | ServingError) -> None:
            if isinstance(outcome, ServingError):
                call.finish(status(outcome, request_id))
            else:
                call.send(outcome)
                call.finish()

        call.on_cancel(self._infer(call, message, answer))

    def model_stream_infer(self, call: Call) -> Receiver:
        return InferStream(call, self._infer, status)

    def _infer(self, call: Call, message: bytes, answer: Answer) -> Callable[[], None]:
        """Starts a request; returns the function that cancels it. A message that takes long to decode gets another thread."""
        arrived_s = time.monotonic()
        if self._codec.is_quick(message):
            return self._start(call, message, answer, arrived_s, self._inline if call.runs_inline else None)
        try:
            return self._decoding.submit(len(message), lambda: self._start(call, message, answer, arrived_s, None))
        except ServingError as error:
            self._reject(message, error, answer, arrived_s)
            return nothing_to_cancel

    def _start(
        self, call: Call, message: bytes, answer: Answer, arrived_s: float, inline: InlineRunner | None
    ) -> Callable[[], None]:
        """Decodes a message and passes the request to the data plane; returns the function that cancels it."""
        try:
            request, formats = self._codec.decode(message, call.metadata, call.deadline_s, arrived_s)

            def done(outcome: InferResponse | ServingError) -> ServingError | None:
                if self._spans is None:
                    encoded = self._encoded(request.id, outcome, formats)
                else:
                    encoded = self._traced(self._spans, call, request, outcome, formats)
                answer(request.id, encoded)
                if not isinstance(encoded, ServingError):
                    return None
                _log_internal(request, encoded)
                return encoded

            return self._dataplane.infer(request, done, inline)
        except ServingError as error:
            self._reject(message, error, answer, arrived_s)
        except Exception:
            self._reject(message, unexpected(), answer, arrived_s)
        return nothing_to_cancel

    def _reject(self, message: bytes, error: ServingError, answer: Answer, arrived_s: float) -> None:
        request_id, model, version = codec.identify(message)
        self._dataplane.rejected(model, version, error, arrived_s)
        answer(request_id, error)

    def _traced(
        self,
        spans: "Spans",
        call: Call,
        request: InferRequest,
        outcome: InferResponse | ServingError,
        formats: codec.OutputFormats,
    ) -> bytes | ServingError:
        """The same as `_encoded`, with a span of the request; the answer has its context."""
        encoding_s = time.monotonic()
        span = spans.begin(call.metadata, request.arrived_s)
        encoded = self._encoded(request.id, outcome, formats)
        span.end(request, encoded if isinstance(encoded, ServingError) else outcome, encoding_s)
        if span.traceparent and isinstance(encoded, bytes):
            encoded += responses.text("traceparent", span.traceparent)
        return encoded

    def _encoded(
        self, request_id: str, outcome: InferResponse | ServingError, formats: codec.OutputFormats
    ) -> bytes | ServingError:
        if isinstance(outcome, ServingError):
            return outcome
        try:
            return self._codec.encode(outcome, formats)
        except ServingError as error:
            return error
        except Exception:
            return unexpected(request_id)


def _log_internal(request: InferRequest, error: ServingError) -> None:
    """Logs which request got INTERNAL: its cause was logged by a part that may not know the request."""
    if status_of(error) == "INTERNAL":
        about = {"request_id": request.id, "model": request.model}
        logger.error("a request for model %s failed: %s", request.model, error, extra=about)
