"""Server reflection of the inference service only, from Turnout's own descriptor pool."""

from typing import Any

from grpc_reflection.v1alpha import reflection, reflection_pb2
from turnout_proto.methods import METHODS, SERVICE
from turnout_proto.pool import POOL

from turnout_server.core.errors import InvalidRequest
from turnout_server.rpc.handlers import parsed, status
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
            request = parsed(reflection_pb2.ServerReflectionRequest, data)
        except InvalidRequest as error:
            self._call.finish(status(error))
            return
        if request.file_containing_symbol.removeprefix(f"{SERVICE}.") in METHODS:
            request.file_containing_symbol = SERVICE  # protobuf's pool finds services by name, but not their methods
        servicer: Any = self._servicer
        for response in servicer.ServerReflectionInfo(iter([request]), None):
            self._call.send(response.SerializeToString())

    def half_closed(self) -> None:
        self._call.finish()
