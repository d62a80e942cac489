"""A server of known latency in a process of its own: `python -m tests.loadtests.fake_server DEVICES`.

DEVICES is a JSON object of devices by name; the keys of each are the fields of `Device`. It prints its port.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS, SERVICE

from tests.loadtests.made import add_metadata

MODELS = ("add", "other")


@dataclass
class Device:
    """How one device behaves.

    Attributes:
        ms, row_ms: time of a run, and for each row beyond the first.
        slow_share, slow_ms: some requests take this long instead.
        instances: runs at once; 0 for any number.
        fails_share: the share of requests that is refused.
        answers_as: the device that its answers name.
        max_batch: larger requests are wrong.
        dies_after: the process ends after so many requests.
        states: whether its answers state device and times.
    """

    ms: float = 2.0
    row_ms: float = 0.0
    slow_share: float = 0.0
    slow_ms: float = 0.0
    instances: int = 0
    fails_share: float = 0.0
    answers_as: str = ""
    max_batch: int = 0
    dies_after: int = 0
    states: bool = True

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.instances or 10_000)
        self.asked = 0
        self.chance = random.Random(1)

    async def run(self, rows: int) -> tuple[int, int]:
        """Takes as long as a run does; returns the microseconds in the queue and of the run."""
        began_s = time.perf_counter()
        async with self.slots:
            started_s = time.perf_counter()
            slow = self.chance.random() < self.slow_share
            await asyncio.sleep((self.slow_ms if slow else self.ms + self.row_ms * (rows - 1)) / 1e3)
        return int((started_s - began_s) * 1e6), int((time.perf_counter() - started_s) * 1e6)


class Server:
    """The service on these devices."""

    def __init__(self, devices: dict[str, Device]) -> None:
        self._devices = devices

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        name = request.parameters["device"].string_param if "device" in request.parameters else "auto"
        device = self._devices.get(next(iter(self._devices)) if name == "auto" else name)
        if device is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"device '{name}' is not available: no such device here")
        assert device is not None
        rows = request.inputs[0].shape[0]
        device.asked += 1
        if device.dies_after and device.asked > device.dies_after:
            os._exit(9)
        if device.max_batch and rows > device.max_batch:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"batch size {rows} is above the limit of {device.max_batch}")
        if device.chance.random() < device.fails_share:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the queue of '{name}' is full")
        queue_us, compute_us = await device.run(rows)
        answer = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        answer.raw_output_contents.append(request.raw_input_contents[0])
        if device.states:
            answered = device.answers_as or (next(iter(self._devices)) if name == "auto" else name)
            answer.parameters["device"].string_param = answered
            answer.parameters["precision"].string_param = "fp32"
            for key, value in {"queue_us": queue_us, "compute_us": compute_us, "batch_size": rows}.items():
                answer.parameters[key].int64_param = value
        return answer

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if request.parameters["device"].string_param == "wrong":
                yield pb.ModelStreamInferResponse(error_message="there is no device 'wrong'")
            else:
                yield pb.ModelStreamInferResponse(infer_response=await self.ModelInfer(request, context))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name not in MODELS:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
        metadata = add_metadata()
        metadata.name = request.name
        return metadata

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        answer = pb.ModelConfigResponse()
        answer.config.name = request.name
        for device in self._devices:
            answer.config.instance_group.add(name=f"{request.name}_{device}")
            answer.config.parameters[f"turnout.report.{device}"].string_value = "loaded; nodes: 7 on FakeExecutionProvider"
        return answer

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        answer = pb.RepositoryIndexResponse()
        for model in MODELS:
            answer.models.add(name=model, version="1", state="READY")
        return answer

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="fake", version="1")

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=True)

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)


async def serve(devices: dict[str, Device]) -> None:
    """Serves until the process is killed."""
    server, service = grpc.aio.server(), Server(devices)
    handlers = {}
    for name in (
        "ModelInfer",
        "ModelMetadata",
        "ModelConfig",
        "RepositoryIndex",
        "ServerMetadata",
        "ServerReady",
        "ServerLive",
    ):
        method = METHODS[name]
        answer: Callable[..., Any] = getattr(service, name)
        handlers[name] = grpc.unary_unary_rpc_method_handler(
            answer, method.request.FromString, method.response.SerializeToString
        )
    stream = METHODS["ModelStreamInfer"]
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        service.ModelStreamInfer, stream.request.FromString, stream.response.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve({name: Device(**fields) for name, fields in json.loads(sys.argv[1]).items()}))
