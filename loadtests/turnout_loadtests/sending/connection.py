"""The channel over which a process sends its load. Requests go out as bytes, so that none is serialized twice."""

from pathlib import Path
from typing import Any

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS, Stub

from turnout_loadtests.client import LOCAL, UNLIMITED, is_loopback, model_metadata
from turnout_loadtests.payloads import golden_inputs, parse_shape, read_inputs, request_pool
from turnout_loadtests.sending.load import GOLDEN, RANDOM, Load


class Connection:
    """One channel to a server.

    Args:
        service_config: gRPC's, as JSON; empty for none.

    Attributes:
        stub: calls outside the measurement.
        infer: ModelInfer, which takes a serialized request.
        stream: ModelStreamInfer, which takes an iterator of serialized requests.
        live: ServerLive, which takes a serialized request.
    """

    def __init__(self, host: str, service_config: str = "") -> None:
        options = LOCAL if is_loopback(host) else UNLIMITED
        config = [("grpc.service_config", service_config)] if service_config else []
        channel = grpc.insecure_channel(host, [*options, ("grpc.use_local_subchannel_pool", 1), *config])
        self.stub = Stub(channel)
        self.infer = _of_bytes(channel.unary_unary, "ModelInfer")
        self.stream = _of_bytes(channel.stream_stream, "ModelStreamInfer")
        self.live = _of_bytes(channel.unary_unary, "ServerLive")

    def requests(self, load: Load, device: str) -> tuple[str, list[bytes]]:
        """The name of the load's model, and its requests for this device, serialized.

        Raises:
            LoadTestError: the server doesn't have the model, or its inputs can't be made.
        """
        if load.floor:
            return "ServerLive", [pb.ServerLiveRequest().SerializeToString()]
        metadata = model_metadata(self.stub, load.model)
        pool = request_pool(
            metadata,
            device=device,
            batch=load.batch,
            shapes=dict(parse_shape(text) for text in load.shape.split()),
            inputs=_rows(load, metadata.name),
        )
        return metadata.name, [request.SerializeToString() for request in pool]


def _rows(load: Load, model: str) -> Any:
    if load.payload == RANDOM:
        return None
    return golden_inputs(Path(load.repository), model) if load.payload == GOLDEN else read_inputs(Path(load.payload))


def _of_bytes(connect: Any, name: str) -> Any:
    return connect(METHODS[name].path, None, METHODS[name].response.FromString)
