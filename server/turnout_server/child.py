"""A device's process: `python -m turnout_server.child`, started by `isolation` and by nobody else.

A CUDA error that sticks, a driver that hangs or a model that eats all memory takes its process with it; in here that is this
one, and not the server. Sessions are opened on request of the control connection; each lane (a connection with a piece of
shared memory) runs them in a thread of its own. The process ends when its parent does, because its connections end then.
"""

import json
import os
import resource
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from turnout_server.config import RuntimeOptions
from turnout_server.devices import Device
from turnout_server.errors import ServingError, internal_error
from turnout_server.lanes import Memory
from turnout_server.sessions import OnnxSession, problem_with

#: What CUDA says once a context is beyond repair; every later call in the process fails, too.
STICKY = (
    "illegal memory access",
    "unspecified launch failure",
    "device-side assert",
    "misaligned address",
    "CUDNN_STATUS_EXECUTION",
)


class Child:
    """The sessions of one device, by the numbers that the parent gave them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._sessions: dict[int, OnnxSession] = {}

    def obey(self, control: Connection) -> None:
        """Answers the parent's commands until it hangs up."""
        while True:
            try:
                command, *arguments = control.recv()
            except EOFError:
                return
            control.send(_outcome(lambda: getattr(self, command)(*arguments)))  # noqa: B023, called at once

    def probe(self) -> str | None:
        """Why nothing can run here; None if a test run was right."""
        return problem_with(self._device)

    def open(self, number: int, path: str, options: RuntimeOptions) -> tuple[Any, Any, Any]:
        """Loads a model; returns its inputs, its outputs and on which provider how many nodes were placed."""
        session = OnnxSession(Path(path), self._device, options)
        self._sessions[number] = session
        return session.inputs, session.outputs, session.placement

    def close(self, number: int) -> None:
        """Drops a model."""
        self._sessions.pop(number, None)

    def run_lane(self, lane: Connection, memory: Memory) -> None:
        """Runs what comes over one lane until the parent hangs up."""
        while True:
            try:
                number, inputs, outputs = lane.recv()
            except (EOFError, OSError):
                return
            lane.send(_outcome(lambda: self._run(number, inputs, outputs, memory)))  # noqa: B023, called at once

    def _run(self, number: int, inputs: Any, outputs: list[str], memory: Memory) -> Any:
        arrays = self._sessions[number].run(memory.get(inputs), outputs)
        return memory.put(dict(enumerate(arrays)))


def _outcome(call: Any) -> tuple[str, Any]:
    """`ok` and the result; `error` and a ServingError; or `sticky` and what ends this process's usefulness."""
    try:
        return "ok", call()
    except ServingError as error:
        cause = str(error.__cause__ or error)
        return ("sticky", cause) if any(text in cause for text in STICKY) else ("error", error)
    except BaseException as error:
        sys.stderr.write(f"turnout_server.child: {error!r}\n")
        return "error", internal_error()


def main() -> None:
    """Reads its device and descriptors from the one argument, as JSON."""
    job = json.loads(sys.argv[1])
    device = Device(**job["device"])
    if device.cpus:
        os.sched_setaffinity(0, device.cpus)
    if device.memory_limit_mb and device.kind == "cpu":
        limit = device.memory_limit_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    child = Child(device)
    for lane, memory in job["lanes"]:
        threading.Thread(target=child.run_lane, args=(Connection(lane), Memory(memory)), daemon=True).start()
    child.obey(Connection(job["control"]))
    os._exit(0)  # a run that goes on is for nobody


if __name__ == "__main__":
    main()
