"""`python -m benchmarks.checkouts NAME=CHECKOUT ...`: CPU per request of several checkouts of the server, in turns.

Flags of the server may follow a checkout, so that settings are compared as well:
`"all cores=. --device='cpu={instances=1}'" "as it comes=."`.

On a machine that does other work, rates and latencies vary by half. The server's CPU time per request varies less, and its
ratio to that of another checkout in the same round least. So every round measures every checkout, and ratios are taken within
rounds. Clients are processes with one request in flight each; their CPU time isn't counted.
"""

import argparse
import contextlib
import multiprocessing
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from benchmarks.cases import CASES, Case

#: Requests of each client before the load begins.
WARM = 50
START_TIMEOUT_S = 120.0
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


class Load(NamedTuple):
    """So many clients that send the request of one case, its tensors in the message or in shared memory."""

    case: Case
    clients: int
    shared: bool

    @property
    def title(self) -> str:
        return f"{self.case.name}{' in shared memory' if self.shared else ''}, {self.clients} clients"


class Contestant(NamedTuple):
    """A checkout, and the flags that its server gets."""

    checkout: Path
    flags: Sequence[str]


class Reading(NamedTuple):
    """One checkout under one load in one round."""

    cpu_us: float
    rate: float
    p50_us: float


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkouts", description=__doc__)
    parser.add_argument("checkouts", nargs="+", metavar="NAME=CHECKOUT [FLAGS]", help="the first is the one to compare with")
    parser.add_argument("--load", action="append", metavar="CASE[+shm]:CLIENTS", help="for example identity+shm:8; repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (2)")
    chosen = parser.parse_args()
    try:
        loads = [_load(text) for text in chosen.load or ["add_sub:1"]]
        checkouts = dict(_checkout(text) for text in chosen.checkouts)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as servers:
        for case in {load.case.name: load.case for load in loads}.values():
            case.publish(Path(directory))
        running = {name: servers.enter_context(serving(*contestant, Path(directory))) for name, contestant in checkouts.items()}
        readings: dict[tuple[Load, str], list[Reading]] = {}
        for turn in range(chosen.rounds):
            for load in loads:
                for name, (port, process) in sorted(running.items(), reverse=turn % 2 > 0, key=lambda entry: entry[0]):
                    readings.setdefault((load, name), []).append(measure(load, port, process, chosen.seconds))
    for load in loads:
        print("\n".join(table(load.title, {name: readings[load, name] for name in checkouts})))


def table(title: str, readings: dict[str, Sequence[Reading]]) -> list[str]:
    """Lines of medians by checkout; ratios are medians of those within rounds, to the first checkout."""
    lines = [title]
    first = next(iter(readings.values()))
    for name, own in readings.items():
        cpu_us, rate, p50_us = (statistics.median(column) for column in zip(*own, strict=True))
        ratio = statistics.median(mine.cpu_us / other.cpu_us for mine, other in zip(own, first, strict=True))
        gain = statistics.median(mine.rate / other.rate for mine, other in zip(own, first, strict=True))
        lines.append(
            f"  {name:12s} CPU {cpu_us:7.1f} us  ratio {ratio:.2f}  {rate:7.1f}/s  ratio {gain:.2f}  p50 {p50_us:7.0f} us"
        )
    return lines


@contextlib.contextmanager
def serving(checkout: Path, flags: Sequence[str], repository: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Runs the server of a checkout; gives its port and process."""
    port, metrics_port = _free_ports(2)
    command = [sys.executable, "-m", "turnout_server", f"--model-repository={repository}", "--allow-client-shm"]
    command += [f"--grpc-port={port}", f"--metrics-port={metrics_port}", *flags]
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'proto'}:{checkout / 'server'}"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stderr=log, cwd=repository)
        try:
            until_s = time.monotonic() + START_TIMEOUT_S
            while not ready(metrics_port):
                if process.poll() is not None or time.monotonic() > until_s:
                    log.seek(0)
                    raise SystemExit(f"the server of {checkout} does not start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.2)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def measure(load: Load, port: int, process: psutil.Process, seconds: float, start: str = "fork") -> Reading:
    """Sends a load for so many seconds.

    Args:
        start: how the clients' processes start; `spawn`, which takes longer, where gRPC runs in this process.
    """
    context: Any = multiprocessing.get_context(start)
    gate, queue = context.Barrier(load.clients + 1), context.SimpleQueue()
    arguments = (port, load.case.name, load.shared, seconds, gate, queue)
    clients = [context.Process(target=_client, args=arguments) for _ in range(load.clients)]
    for client in clients:
        client.start()
    gate.wait()
    before_s, began_s = sum(process.cpu_times()[:2]), time.monotonic()
    took_s = [each for _ in clients for each in queue.get()]
    cpu_s, elapsed_s = sum(process.cpu_times()[:2]) - before_s, time.monotonic() - began_s
    for client in clients:
        client.join()
    return Reading(cpu_s / len(took_s) * 1e6, len(took_s) / elapsed_s, statistics.median(took_s) * 1e6)


def _client(
    port: int, name: str, shared: bool, seconds: float, gate: Barrier, queue: "multiprocessing.SimpleQueue[list[float]]"
) -> None:
    case = next(case for case in CASES if case.name == name)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel, contextlib.ExitStack() as regions:
        infer, request = Stub(channel), case.request()
        request.parameters["device"].string_param = "cpu"
        if shared:
            regions.enter_context(_in_shared_memory(infer, request))
        for _ in range(WARM):
            infer.ModelInfer(request)
        gate.wait()
        took_s, now_s = [], time.monotonic()
        until_s = now_s + seconds
        while now_s < until_s:
            infer.ModelInfer(request)
            took_s.append(time.monotonic() - now_s)
            now_s += took_s[-1]
    queue.put(took_s)


@contextlib.contextmanager
def _in_shared_memory(stub: Stub, request: pb.ModelInferRequest) -> Iterator[None]:
    """Moves a request's inputs into a shared-memory object, and asks for outputs of the same sizes in another one."""
    outputs = stub.ModelMetadata(pb.ModelMetadataRequest(name=request.model_name)).outputs
    contents = list(request.raw_input_contents)
    del request.raw_input_contents[:]
    request.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=output.name) for output in outputs)
    objects = []
    places: list[tuple[Any, bytes]] = [
        *zip(request.inputs, contents, strict=True),
        *zip(request.outputs, contents, strict=False),
    ]
    for tensor, data in places:
        path = Path("/dev/shm") / f"turnout-benchmark-{uuid.uuid4().hex}"
        path.write_bytes(data)
        objects.append(path)
        stub.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name=path.name, key=path.name, byte_size=len(data))
        )
        tensor.parameters["shared_memory_region"].string_param = path.name
        tensor.parameters["shared_memory_byte_size"].int64_param = len(data)
    try:
        yield
    finally:
        for path in objects:
            path.unlink()


def _load(text: str) -> Load:
    name, _, clients = text.partition(":")
    shared = name.endswith("+shm")
    cases = {case.name: case for case in CASES}
    if (case := cases.get(name.removesuffix("+shm"))) is None or not clients.isdecimal() or not int(clients):
        raise ValueError(f"--load {text}: give CASE:CLIENTS or CASE+shm:CLIENTS, CASE being one of {', '.join(cases)}")
    return Load(case, int(clients), shared)


def _checkout(text: str) -> tuple[str, Contestant]:
    name, _, rest = text.partition("=")
    path, *flags = shlex.split(rest) or [""]
    if not name or not path or not (Path(path) / "server" / "turnout_server").is_dir():
        raise ValueError(f"{text}: give NAME=CHECKOUT, CHECKOUT being a directory with server/turnout_server in it")
    return name, Contestant(Path(path).resolve(), flags)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [own.getsockname()[1] for own in sockets]


def ready(metrics_port: int) -> bool:
    """Whether the server with this metrics port has loaded its models."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/readyz", timeout=1):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
