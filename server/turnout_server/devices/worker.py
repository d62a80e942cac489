"""A device's process: `python -m turnout_server.devices.worker`, started by `process` only.

A CUDA error that sticks, a driver that hangs or a model that eats all memory ends the process it happens in: this one, and not
the server. Sessions are opened on request of the control connection. Each slot, a connection with a piece of shared memory,
runs them in a thread of its own. The process ends when its parent does, because its connections end then.
"""

import json
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from turnout_server.core.errors import FailedPrecondition, Overloaded, ServingError, internal_error
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import messages
from turnout_server.devices.binding import BoundRun
from turnout_server.devices.bucket_session import BucketSession
from turnout_server.devices.cuda_graphs import GraphSession
from turnout_server.devices.cuda_runtime import gpu_of
from turnout_server.devices.device import Device
from turnout_server.devices.memory_layouts import MemoryLayout
from turnout_server.devices.ort_errors import ends_device, may_end_device
from turnout_server.devices.probe import unavailable_reason
from turnout_server.devices.run_limit import within
from turnout_server.devices.sessions import OnnxSession
from turnout_server.devices.tensor_memory import TensorMemory, TensorRef

logger = logging.getLogger(__name__)

T = TypeVar("T")
Opened = OnnxSession | GraphSession | BucketSession


class SerialThread:
    """Runs functions in one thread, one after another."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[tuple[Any, BaseException | None]]]]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def run(self, function: Callable[[], T]) -> T:
        """Returns what the function returns, or raises what it raises."""
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._calls.put((function, answer))
        result, error = answer.get()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _work(self) -> None:
        while True:
            function, answer = self._calls.get()
            try:
                answer.put((function(), None))
            except BaseException as error:
                answer.put((None, error))
            del function, answer  # a thread that waits keeps no session alive


class Prepared(NamedTuple):
    """A run of a session, by its number, on tensors whose places in memory are known."""

    number: int
    run: Callable[[], Mapping[str, np.ndarray]]


class Worker:
    """The sessions of one device, by the numbers that the parent gave them.

    Args:
        slots: how many threads run them.
    """

    def __init__(self, device: Device, slots: int = 1) -> None:
        self._device = device
        self._sessions: dict[int, Opened] = {}
        self._graphs = SerialThread("graphs")  # captures and runs every session that has CUDA graphs
        self._running = [threading.Lock() for _ in range(slots)]  # held by each slot during a run
        self._prepared: list[OrderedDict[int, Prepared]] = [OrderedDict() for _ in range(slots)]
        self.gpu = gpu_of(device)

    def obey(self, control: socket.socket) -> None:
        """Answers the parent's commands until it hangs up."""
        connection = messages.Connection(control)
        for message in _received(connection):
            _, command, *arguments = messages.call_of(message)
            connection.send(messages.outcome(self._outcome(getattr(self, command), *arguments)))

    def probe(self) -> str | None:
        """Why nothing can run here; None if a test run was right."""
        return unavailable_reason(self._device)

    def open(
        self, number: int, path: str, options: RuntimeOptions, buckets: tuple[int, ...] = (), graphs: bool = False
    ) -> tuple[Any, Any, Any, tuple[int, ...], list[str]]:
        """Opens a model.

        Args:
            buckets: the numbers of rows to pad runs to; empty for no padding.
            graphs: whether to try a CUDA graph for each of them.

        Returns:
            Inputs, outputs, how many nodes each provider runs, the buckets that there are, and notes for people.
        """
        notes: list[str] = []
        session: Opened
        if graphs:
            try:
                with self._nothing_running():
                    session = self._graphs.run(lambda: GraphSession(Path(path), self._device, options, buckets, self.gpu))
            except FailedPrecondition as error:
                notes.append(f"no CUDA graphs: {error}")
                session = self._without_graphs(path, options, buckets, notes)
        else:
            session = self._without_graphs(path, options, buckets, notes)
        self._sessions[number] = session
        return session.inputs, session.outputs, session.placement, tuple(session.buckets), [*notes, *session.notes]

    def trim(self, number: int) -> None:
        """Has a model's next runs free memory that they don't need."""
        if (session := self._sessions.get(number)) is not None:
            session.trim()

    def close(self, number: int) -> None:
        """Drops a model, and the runs of it that the slots have prepared: each of them would keep its memory and threads."""
        self._sessions.pop(number, None)
        for prepared in self._prepared:
            for uid in [uid for uid, each in prepared.copy().items() if each.number == number]:
                prepared.pop(uid, None)

    def run_slot(self, slot: socket.socket, memory: TensorMemory, index: int = 0) -> None:
        """Runs what comes over one slot, the `index`-th, until the parent hangs up."""
        connection = messages.Connection(slot)
        prepared = self._prepared[index]

        def run(uid: int, size: int, timeout_s: float) -> bytes:
            if (known := prepared.get(uid)) is None:
                return messages.UNKNOWN_LAYOUT
            with within(timeout_s):
                outcome = self._outcome(self._run_prepared, known.run, memory, size, index)
            return messages.DONE if outcome == ("ok", {}) else messages.outcome(outcome)

        for message in _received(connection):
            opcode, *arguments = messages.call_of(message)
            if opcode == messages.RUN:
                uid, size, timeout_s = arguments
                connection.send(run(uid, size, timeout_s))
            elif opcode == messages.DESCRIBE_AND_RUN:
                uid, number, layout, timeout_s = arguments
                kind, result = self._outcome(self._prepare, number, layout, memory)
                if kind != "ok":
                    connection.send(messages.outcome((kind, result)))
                    continue
                prepared[uid] = Prepared(number, result)
                while len(prepared) > messages.MAX_LAYOUTS:
                    prepared.popitem(last=False)
                connection.send(run(uid, layout.size, timeout_s))
            else:
                number, references, outputs, timeout_s = arguments[1:]
                with within(timeout_s):
                    outcome = self._outcome(self._run, number, references, outputs, memory, index)
                connection.send(messages.outcome(outcome))

    def _run(
        self, number: int, references: dict[str, TensorRef], outputs: list[str], memory: TensorMemory, index: int
    ) -> dict[str, TensorRef]:
        """A run whose tensors' sizes aren't known beforehand, such as text."""
        session = self._sessions[number]
        with self._running[index]:
            arrays = self._in_its_thread(session, lambda: session.run(memory.get(references), outputs))
        return memory.put(dict(zip(outputs, arrays, strict=True)))

    def _run_prepared(
        self, run: Callable[[], Mapping[str, np.ndarray]], memory: TensorMemory, size: int, index: int
    ) -> dict[str, TensorRef]:
        with self._running[index]:
            memory.reserve(size)
            others = run()
        return memory.put(others, start=size) if others else {}

    def _prepare(self, number: int, layout: MemoryLayout, memory: TensorMemory) -> Callable[[], Mapping[str, np.ndarray]]:
        session = self._sessions[number]
        if isinstance(session, OnnxSession):
            return BoundRun(session, layout, memory)
        if isinstance(session, BucketSession):
            return session.prepare(layout, memory)
        run = session.prepare(layout, memory) if layout.bucket else BoundRun(session.plain, layout, memory)
        return lambda: self._graphs.run(run)

    def _in_its_thread(self, session: Opened, function: Callable[[], T]) -> T:
        return self._graphs.run(function) if isinstance(session, GraphSession) else function()

    def _without_graphs(self, path: str, options: RuntimeOptions, buckets: tuple[int, ...], notes: list[str]) -> Opened:
        if buckets:
            try:
                return BucketSession(Path(path), self._device, options, buckets, self.gpu)
            except FailedPrecondition as error:
                notes.append(f"runs are not padded: {error}")
        return OnnxSession(Path(path), self._device, options)

    @contextmanager
    def _nothing_running(self) -> Iterator[None]:
        """Keeps every slot from running: CUDA calls of other threads break a capture, and are broken by it."""
        with ExitStack() as held:
            for lock in self._running:
                held.enter_context(lock)
            yield

    def _outcome(self, call: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
        """`ok` and the result; `error` and a ServingError; or `sticky` and what makes this process useless."""
        try:
            return "ok", call(*arguments)
        except ServingError as error:
            cause = str(error.__cause__ or error)
            suspicious = may_end_device(cause) and not isinstance(error, Overloaded)
            if ends_device(cause) or (suspicious and self.probe() is not None):
                return "sticky", cause
            return "error", error
        except BaseException:
            hidden = internal_error()
            logger.exception("a call failed: %s", hidden)
            return "error", hidden


def _received(connection: "messages.Connection") -> Iterator[memoryview]:
    """Messages until the other side hangs up."""
    with suppress(EOFError, OSError):
        while True:
            yield connection.receive()


def main() -> None:
    """Reads its device and descriptors from the one argument, as JSON."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which still needs this process while it drains
        signal.signal(number, signal.SIG_IGN)
    job = json.loads(sys.argv[1])
    device = Device(**job["device"])
    if device.cpus:
        os.sched_setaffinity(0, device.cpus)
    worker = Worker(device, len(job["slots"]))

    def serve(index: int, slot: int, memory: int) -> None:
        worker.run_slot(socket.socket(fileno=slot), TensorMemory(memory, worker.gpu), index)
        os._exit(0)  # nobody wants the result of a load that is still in progress

    for index, (slot, memory) in enumerate(job["slots"]):
        threading.Thread(target=serve, args=(index, slot, memory), daemon=True).start()
    if device.memory_limit_mb and device.kind == "cpu":  # the threads' stacks don't count
        limit_memory(device.memory_limit_mb * 2**20)
    worker.obey(socket.socket(fileno=job["control"]))
    os._exit(0)  # nobody wants the result of a run that is still in progress


def limit_memory(size: int) -> None:
    """Lets this process allocate `size` bytes more than it has now.

    It limits the process's data, because its address space includes the empty arenas of threads, 64 MB each.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(fields["VmData"].split()[0]) * 1024 + size
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main()
