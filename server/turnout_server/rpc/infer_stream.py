"""ModelStreamInfer: many requests in flight on one call, answered in the order of the requests."""

import threading
from collections import deque
from collections.abc import Callable

from turnout_proto import inference_pb2 as pb

from turnout_server.core.errors import ServingError
from turnout_server.core.messages import nothing_to_cancel
from turnout_server.transport.base import Call, Status
from turnout_server.wire import responses

#: Receives a request's id and outcome: the bytes of a ModelInferResponse, or an error.
Answer = Callable[[str, bytes | ServingError], None]
#: Starts a request of a call; returns the function that cancels it.
Infer = Callable[[Call, bytes, Answer], Callable[[], None]]

#: Clients that send this metadata want a failed request to end the stream with the request's status.
ERROR_HEADER = "triton_grpc_error"


class _Pending:
    """A request whose answer hasn't been sent."""

    __slots__ = ("cancel", "message", "status")

    def __init__(self) -> None:
        self.message: bytes | None = None
        self.status: Status | None = None
        self.cancel: Callable[[], None] = nothing_to_cancel

    @property
    def answered(self) -> bool:
        return self.message is not None or self.status is not None


class InferStream:
    """The receiver of one stream. Sends each answer as soon as all earlier requests have been answered.

    Args:
        infer: starts a request.
        status: the gRPC status for an error and a request id.
    """

    def __init__(self, call: Call, infer: Infer, status: Callable[[ServingError, str], Status]) -> None:
        self._call = call
        self._infer = infer
        self._status = status
        self._ends_on_error = call.metadata.get(ERROR_HEADER, "").lower() == "true"
        self._pending: deque[_Pending] = deque()
        self._closed = False
        self._lock = threading.Lock()
        call.on_cancel(self._cancel)

    def message(self, data: bytes) -> None:
        request = _Pending()
        with self._lock:
            self._pending.append(request)
        request.cancel = self._infer(self._call, data, lambda request_id, outcome: self._answer(request, request_id, outcome))

    def half_closed(self) -> None:
        with self._lock:
            self._closed = True
            self._flush()

    def _answer(self, request: _Pending, request_id: str, outcome: bytes | ServingError) -> None:
        if isinstance(outcome, ServingError) and self._ends_on_error:
            request.status = self._status(outcome, request_id)
        else:
            request.message = self._message(request_id, outcome)
        with self._lock:
            self._flush()

    def _message(self, request_id: str, outcome: bytes | ServingError) -> bytes:
        if isinstance(outcome, ServingError):
            text = pb.ModelStreamInferResponse(error_message=self._status(outcome, request_id).details)
            return text.SerializeToString() + responses.in_stream(responses.request_id(request_id))
        return responses.in_stream(outcome)

    def _flush(self) -> None:
        while self._pending and self._pending[0].answered:
            request = self._pending.popleft()
            if request.message is None:
                assert request.status is not None
                self._call.finish(request.status)
                return
            self._call.send(request.message)
        if self._closed and not self._pending:
            self._call.finish()

    def _cancel(self) -> None:
        with self._lock:
            pending = list(self._pending)
        for request in pending:
            request.cancel()
