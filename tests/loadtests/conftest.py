"""A small gRPC server that stands in for Turnout; the `device` of a request chooses how it behaves."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS, SERVICE, Stub

from tests.loadtests.made import add_metadata

FAST_S, SLOW_S = 0.002, 0.5
NO_CUDA = "device 'cuda' is not available: no NVIDIA driver on this machine"


@pytest.fixture(scope="session")
def fake() -> Iterator[str]:
    """The address of the server."""
    server = grpc.server(futures.ThreadPoolExecutor(64))
    behaviour: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
        "ServerReady": lambda _, context: pb.ServerReadyResponse(ready=True),
        "ServerMetadata": lambda _, context: pb.ServerMetadataResponse(name="fake", version="1"),
        "RepositoryIndex": lambda _, context: _index(),
        "ModelMetadata": _metadata,
        "ModelInfer": _infer,
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            answer, METHODS[name].request.FromString, METHODS[name].response.SerializeToString
        )
        for name, answer in behaviour.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def stub(fake: str) -> Iterator[Stub]:
    with grpc.insecure_channel(fake) as channel:
        yield Stub(channel)


def _index() -> pb.RepositoryIndexResponse:
    index = pb.RepositoryIndexResponse()
    index.models.add(name="add", version="1", state="READY")
    return index


def _metadata(request: pb.ModelMetadataRequest, context: grpc.ServicerContext) -> pb.ModelMetadataResponse:
    if request.name != "add":
        context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
    return add_metadata()


def _infer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
    device = request.parameters["device"].string_param
    if device == "cuda":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, NO_CUDA)
    if device == "failing":
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue of 'failing' is full")
    time.sleep(SLOW_S if device == "slow" else FAST_S)
    x = np.frombuffer(request.raw_input_contents[0], np.float32)
    answer = pb.ModelInferResponse(model_name="add", raw_output_contents=[(x + 1).tobytes()])
    answer.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
    answer.parameters["device"].string_param = device
    for key, value in {"queue_us": 100, "compute_us": 2000, "batch_size": request.inputs[0].shape[0]}.items():
        answer.parameters[key].int64_param = value
    return answer


@pytest.fixture
def closed_port() -> int:
    """A port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
