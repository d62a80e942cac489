"""Server reflection, from the private descriptor pool; it shows the inference service and nothing else."""

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
    """The stream that reflection clients ask on."""
    servicer = reflection.ReflectionServicer([SERVICE], pool=POOL)
    return {PATH: lambda call: _Answers(call, servicer)}


class _Answers:
    """One reflection call: an answer for each question."""

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
            request.file_containing_symbol = SERVICE  # protobuf's pool finds services, but not their methods
        answers: Any = self._servicer
        for response in answers.ServerReflectionInfo(iter([request]), None):
            self._call.send(response.SerializeToString())

    def half_closed(self) -> None:
        self._call.finish()
