"""The service's methods as data: what a server routes by and what a client calls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message_factory import GetMessageClass

from turnout_proto.pool import POOL

if TYPE_CHECKING:
    import grpc
    from google.protobuf.message import Message

SERVICE = "inference.GRPCInferenceService"


@dataclass(frozen=True)
class Method:
    """One RPC: its path on the wire, its message classes, and whether both sides stream."""

    name: str
    path: str
    request: "type[Message]"
    response: "type[Message]"
    streams: bool


def _read() -> dict[str, Method]:
    service = POOL.FindServiceByName(SERVICE)
    return {
        rpc.name: Method(
            name=rpc.name,
            path=f"/{SERVICE}/{rpc.name}",
            request=GetMessageClass(rpc.input_type),
            response=GetMessageClass(rpc.output_type),
            streams=rpc.client_streaming,
        )
        for rpc in service.methods
    }


METHODS = _read()


class Stub:
    """A client: one callable attribute for each RPC of the service, over the channel given.

    Unary RPCs are `grpc.UnaryUnaryMultiCallable`s (`stub.ModelInfer(request, timeout=1)`, `.future(request)`), streams are
    `grpc.StreamStreamMultiCallable`s. Works with `grpc.Channel` and `grpc.aio.Channel`.
    """

    def __init__(self, channel: "grpc.Channel") -> None:
        for method in METHODS.values():
            connect = channel.stream_stream if method.streams else channel.unary_unary
            call = connect(method.path, method.request.SerializeToString, method.response.FromString)
            setattr(self, method.name, call)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
