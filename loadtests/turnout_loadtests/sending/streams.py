"""A bidirectional stream as a source of calls: each request put into it is a call with a result, answered in order."""

from collections import deque
from typing import Any

import gevent
import grpc
from gevent.event import AsyncResult
from gevent.queue import Queue
from turnout_proto import inference_pb2 as pb

from turnout_loadtests.sending.connection import Connection


class StreamTimeout(grpc.RpcError):
    """The answer to one request of a stream didn't come within its time."""

    def __init__(self, timeout_s: float) -> None:
        self._text = f"no answer on the stream within {timeout_s:g} s"

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return self._text


class StreamCall:
    """One request on a stream; has the methods of gRPC's futures that are needed."""

    def __init__(self, stream: "InferenceStream", timeout_s: float) -> None:
        self.answer = AsyncResult()
        self._stream = stream
        self._timeout_s = timeout_s

    def result(self) -> pb.ModelStreamInferResponse:
        try:
            found: pb.ModelStreamInferResponse = self.answer.get(timeout=self._timeout_s)
        except gevent.Timeout:
            self._stream.close()
            raise StreamTimeout(self._timeout_s) from None
        return found

    def cancel(self) -> None:
        self._stream.close()


class InferenceStream:
    """One stream to the server, opened with its first request and again after it broke."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._call: Any = None
        self._requests: Queue[bytes | None] = Queue()
        self._waiting: deque[StreamCall] = deque()

    def send(self, request: bytes, timeout_s: float) -> StreamCall:
        """Puts a request into the stream."""
        if self._call is None:
            self._open()
        call = StreamCall(self, timeout_s)
        self._waiting.append(call)
        self._requests.put(request)
        return call

    def close(self) -> None:
        """Ends the stream; requests that wait for their answer fail."""
        if self._call is not None:
            self._call.cancel()
            self._requests.put(None)
            self._call = None

    def _open(self) -> None:
        self._requests, self._waiting = Queue(), deque()
        self._call = self._connection.stream(iter(self._requests.get, None))
        gevent.spawn(self._read, self._call, self._waiting)

    def _read(self, call: Any, waiting: "deque[StreamCall]") -> None:
        try:
            for answer in call:
                waiting.popleft().answer.set(answer)
        except grpc.RpcError as error:
            self._fail(waiting, error)
        finally:
            if self._call is call:
                self.close()

    @staticmethod
    def _fail(waiting: "deque[StreamCall]", error: grpc.RpcError) -> None:
        while waiting:
            waiting.popleft().answer.set_exception(error)
