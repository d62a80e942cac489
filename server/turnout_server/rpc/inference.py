"""ModelInfer and ModelStreamInfer."""

import time
from collections.abc import Callable

from turnout_proto.methods import METHODS

from turnout_server.core.errors import ServingError
from turnout_server.core.messages import InferResponse, nothing_to_cancel
from turnout_server.rpc.handlers import status, unexpected
from turnout_server.rpc.infer_stream import Answer, InferStream
from turnout_server.serving.dataplane import DataPlane
from turnout_server.transport.base import Call, Receiver, StreamHandler, UnaryHandler
from turnout_server.wire import codec
from turnout_server.wire.codec import Codec
from turnout_server.wire.parameters import check_objective


class InferenceService:
    """Decodes requests, hands them to the data plane, and answers from whichever thread has the outcome."""

    def __init__(self, dataplane: DataPlane, codec: Codec) -> None:
        self._dataplane = dataplane
        self._codec = codec

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
        """Starts a request; returns what to call when nobody wants its answer any more."""
        arrived_s = time.monotonic()
        try:
            request, forms = self._codec.decode(message)
            metadata = call.metadata
            request.device = request.device or metadata.get("device", "")
            if not request.objective and "objective" in metadata:
                request.objective = check_objective(metadata["objective"])
            request.arrived_s = arrived_s
            request.deadline_s = call.deadline_s
            request.decode_us = int((time.monotonic() - arrived_s) * 1e6)
            return self._dataplane.infer(request, lambda outcome: answer(request.id, self._encoded(outcome, forms)))
        except ServingError as error:
            answer(codec.id_of(message), error)
        except Exception:
            answer(codec.id_of(message), unexpected())
        return nothing_to_cancel

    def _encoded(self, outcome: InferResponse | ServingError, forms: codec.Forms) -> bytes | ServingError:
        if isinstance(outcome, ServingError):
            return outcome
        try:
            return self._codec.encode(outcome, forms)
        except ServingError as error:
            return error
        except Exception:
            return unexpected()
