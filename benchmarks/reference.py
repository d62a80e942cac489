"""Reference points for the servers. Run as `python -m benchmarks.reference limit|floor|plain MODEL.onnx ...`."""

import asyncio
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import onnxruntime
from turnout_loadtests.statistics import nearest_rank
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS
from turnout_server.transport.base import Call, Handlers
from turnout_server.transport.selection import choose

from benchmarks.cases import CASES, Array, Case

OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def session_of(path: str, threads: int = 0) -> Any:
    """A session as every server runs it, without spinning; with `threads` threads, or one per core if 0."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def expected_outputs(model: Path, case: Case) -> dict[str, Array]:
    """The outputs for the request of a case, by name, computed in this process."""
    session = session_of(str(model))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, case.tensors()), strict=True))


def limit(path: str, seconds: float) -> None:
    """Prints how fast `session.run` is without a server: in one loop on all cores or one loop per core, whichever is faster."""
    cores = len(os.sched_getaffinity(0))
    settings = dict.fromkeys([(1, cores), (cores, 1)])
    print(*max((loops(path, count, threads, seconds / len(settings)) for count, threads in settings), key=lambda r: r[0]))


def loops(path: str, count: int, threads: int, seconds: float) -> tuple[float, float, float, float]:
    """Runs per second, p50 and p99 in ms, and CPU microseconds per run, of `count` loops with `threads` threads each."""
    session = session_of(path, threads)
    inputs = _case_of(path).tensors()
    session.run(None, inputs)
    took_s: list[float] = []
    rates: list[float] = []
    began_s, cpu_s = time.perf_counter(), time.process_time()

    def loop() -> None:
        runs, ended_s = 0, began_s
        while ended_s < began_s + seconds:
            started_s = ended_s
            session.run(None, inputs)
            runs, ended_s = runs + 1, time.perf_counter()
            took_s.append(ended_s - started_s)
        rates.append(runs / (ended_s - began_s))

    workers = [threading.Thread(target=loop) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cpu_us = (time.process_time() - cpu_s) / len(took_s) * 1e6
    return sum(rates), statistics.median(took_s) * 1e3, nearest_rank(took_s, 0.99) * 1e3, cpu_us


def answered(session: Any, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """The answer of the simplest servicer: decode, run, encode."""
    inputs = {
        tensor.name: np.frombuffer(raw, np.float32).reshape(tensor.shape)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    names = [output.name for output in session.get_outputs()]
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for name, array in zip(names, session.run(names, inputs), strict=True):
        response.outputs.add(name=name, datatype="FP32", shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    return response


def floor(path: str, port: str) -> None:
    """Answers each ModelInfer with the same bytes: the cost of gRPC in Python alone."""
    session = session_of(path)
    answer = answered(session, _case_of(path).request()).SerializeToString()

    def reply(call: Call, _: bytes) -> None:
        call.send(answer)
        call.finish()

    transport = choose("auto")(f"127.0.0.1:{port}", Handlers({METHODS["ModelInfer"].path: reply}, {}), OPTIONS, None)
    transport.start()
    threading.Event().wait()


async def plain(path: str, port: str) -> None:
    """Serves with a servicer on grpc.aio, as a tutorial would write it."""
    session = session_of(path)

    async def infer(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
        return answered(session, request)

    method = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    service, name = METHODS["ModelInfer"].path.strip("/").split("/")
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: method})])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _case_of(path: str) -> Case:
    return next(case for case in CASES if case.name == Path(path).parent.parent.name)


if __name__ == "__main__":
    what, model, argument = sys.argv[1:]
    if what == "limit":
        limit(model, float(argument))
    elif what == "floor":
        floor(model, argument)
    else:
        asyncio.run(plain(model, argument))
