"""Server reflection of the inference service only, from Turnout's own descriptor pool."""

from typing import Any

from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2
from turnout_proto.methods import METHODS, SERVICE
from turnout_proto.pool import POOL

from turnout_server.core.errors import InvalidRequest
from turnout_server.rpc.handlers import status
from turnout_server.transport.base import Call, StreamHandler

PATH = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def handlers() -> dict[str, StreamHandler]:
    """Handlers by path."""
    servicer = reflection.ReflectionServicer([SERVICE], pool=POOL)
    return {PATH: lambda call: _ReflectionCall(call, servicer)}


class _ReflectionCall:
    """The receiver of one reflection call; answers each request with one response."""

    def __init__(self, call: Call, servicer: reflection.ReflectionServicer) -> None:
        self._call = call
        self._servicer = servicer

    def message(self, data: bytes) -> None:
        try:
            request = reflection_pb2.ServerReflectionRequest.FromString(data)
        except DecodeError:
            self._call.finish(status(InvalidRequest("the message is not a valid ServerReflectionRequest")))
            return
        if request.file_containing_symbol.removeprefix(f"{SERVICE}.") in METHODS:
            request.file_containing_symbol = SERVICE  # protobuf's pool finds services by name, but not their methods
        servicer: Any = self._servicer
        for response in servicer.ServerReflectionInfo(iter([request]), None):
            self._call.send(response.SerializeToString())

    def half_closed(self) -> None:
        self._call.finish()
