"""A device's process: `python -m turnout_server.devices.worker`, started by `process` only.

A CUDA error that sticks, a driver that hangs or a model that eats all memory takes its process with it; in here that is this
one, and not the server. Sessions are opened on request of the control connection; each slot (a connection with a piece of
shared memory) runs them in a thread of its own. The process ends when its parent does, because its connections end then.
"""

import json
import logging
import os
import pickle
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from turnout_server.core.errors import ServingError, internal_error
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.cuda_graphs import GraphSession
from turnout_server.devices.device import Device
from turnout_server.devices.probe import unavailable_reason
from turnout_server.devices.sessions import OnnxSession, Session
from turnout_server.devices.tensor_memory import TensorMemory, TensorRef

logger = logging.getLogger(__name__)

#: What CUDA says of errors after which, by its documentation, a process must be started anew (driver_types.h, CUDA 13.0), and
#: of memory and links beyond repair; and what its libraries say when such an error met them first.
STICKY = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "global/shared address space",
    "hardware stack error",
    "device-side assert",
    "unspecified launch failure",
    "the launch timed out",
    "tensor memory not completely freed",
    "Invalid access of peer GPU memory",
    "MPS client has been terminated",
    "external entity outside of CUDA",
    "context is destroyed",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION",
    "CUFFT_EXEC_FAILED",
)


class Worker:
    """The sessions of one device, by the numbers that the parent gave them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._sessions: dict[int, list[Session]] = {}

    def obey(self, control: BinaryIO) -> None:
        """Answers the parent's commands until it hangs up."""
        answer(control, lambda command, *arguments: getattr(self, command)(*arguments))

    def probe(self) -> str | None:
        """Why nothing can run here; None if a test run was right."""
        return unavailable_reason(self._device)

    def open(self, number: int, path: str, options: RuntimeOptions) -> tuple[Any, Any, Any]:
        """Loads a model; returns its inputs, its outputs and on which provider how many nodes were placed.

        Anything but a CPU gets a session for each slot: ONNX Runtime gives a session one CUDA stream, for example, on which its
        runs go one by one.
        """
        count = self._device.copies
        opening = GraphSession if self._device.graph_rows else OnnxSession
        sessions: list[Session] = [opening(Path(path), self._device, options) for _ in range(count)]
        self._sessions[number] = sessions
        session = sessions[0]
        return session.inputs, session.outputs, session.placement

    def trim(self, number: int) -> None:
        """Has a model's next runs give back what they don't need."""
        for session in self._sessions.get(number, ()):
            session.trim()

    def close(self, number: int) -> None:
        """Drops a model."""
        self._sessions.pop(number, None)

    def run_slot(self, slot: BinaryIO, memory: TensorMemory, index: int = 0) -> None:
        """Runs what comes over one slot, the `index`-th, until the parent hangs up."""

        def run(number: int, inputs: dict[str, TensorRef], outputs: list[str]) -> dict[int, TensorRef]:
            arrays = self._session(number, index).run(memory.get(inputs), outputs)
            return memory.put(dict(enumerate(arrays)))

        def bind(number: int) -> Mapping[int, str]:
            session = self._session(number, index)
            return session.bind() if isinstance(session, GraphSession) else {}

        commands: dict[str, Callable[..., Any]] = {"run": run, "bind": bind}
        answer(slot, lambda command, *arguments: commands[command](*arguments))

    def _session(self, number: int, slot: int) -> Session:
        sessions = self._sessions[number]
        return sessions[slot % len(sessions)]


def answer(connection: BinaryIO, call: Callable[..., Any]) -> None:
    """Answers every message, a call's arguments, with its outcome until the other side hangs up."""
    try:
        while True:
            arguments = pickle.load(connection)
            connection.write(pickle.dumps(outcome(call, *arguments)))
            connection.flush()
    except (EOFError, OSError, pickle.UnpicklingError):
        return


def outcome(call: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """`ok` and the result; `error` and a ServingError; or `sticky` and what ends this process's usefulness."""
    try:
        return "ok", call(*arguments)
    except ServingError as error:
        cause = str(error.__cause__ or error)
        return ("sticky", cause) if any(text in cause for text in STICKY) else ("error", error)
    except BaseException:
        hidden = internal_error()
        logger.exception("a call failed: %s", hidden)
        return "error", hidden


def main() -> None:
    """Reads its device and descriptors from the one argument, as JSON."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which still needs this process while it drains
        signal.signal(number, signal.SIG_IGN)
    job = json.loads(sys.argv[1])
    device = Device(**job["device"])
    if device.cpus:
        os.sched_setaffinity(0, device.cpus)
    worker = Worker(device)

    def serve(index: int, slot: int, memory: int) -> None:
        worker.run_slot(_stream(slot), TensorMemory(memory), index)
        os._exit(0)  # a load that goes on is for nobody

    for index, (slot, memory) in enumerate(job["slots"]):
        threading.Thread(target=serve, args=(index, slot, memory), daemon=True).start()
    if device.memory_limit_mb and device.kind == "cpu":  # the threads' stacks are not what it is about
        limit_memory(device.memory_limit_mb * 2**20)
    worker.obey(_stream(job["control"]))
    os._exit(0)  # a run that goes on is for nobody


def limit_memory(size: int) -> None:
    """Lets this process take `size` bytes more than it has now.

    Its data is what counts. The address space would count threads' empty arenas, of 64 MB each, too.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(fields["VmData"].split()[0]) * 1024 + size
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _stream(descriptor: int) -> BinaryIO:
    return cast(BinaryIO, socket.socket(fileno=descriptor).makefile("rwb"))


if __name__ == "__main__":
    main()
