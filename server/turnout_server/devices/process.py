"""One process of a device, from its start to its end, as its parent sees it.

When such a process dies, hangs, or says that its device can't recover, it is killed, and everything it was running fails with
DeviceLost.
"""

import json
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from typing import Any

from turnout_server.core.errors import DeviceLost
from turnout_server.devices import messages
from turnout_server.devices.device import Device
from turnout_server.devices.memory_layouts import MemoryLayout
from turnout_server.devices.tensor_memory import TensorMemory

#: Starting a process, opening a model and its first run may take this long: CUDA compiles and tunes kernels then.
LOAD_TIMEOUT_S = 300.0
#: Ends of a process that say nothing about what it was running: SIGKILL, SIGTERM or SIGINT of somebody, or for want of memory.
_FROM_OUTSIDE = (-9, -15, -2)


class Channel:
    """Sends messages to one thread of the worker process and receives its answers, each within a time limit.

    Attributes:
        theirs: the worker's end of the socket.
    """

    def __init__(self) -> None:
        self._socket, self.theirs = socket.socketpair()
        self._connection = messages.Connection(self._socket)

    def exchange(self, message: bytes, timeout_s: float) -> tuple[str, Any]:
        """Sends a message and waits for its answer.

        Raises:
            TimeoutError: there was none in time.
            EOFError, OSError: the other end is gone.
        """
        self._connection.limit(timeout_s)
        self._connection.send(message)
        return messages.outcome_of(self._connection.receive())

    def close(self) -> None:
        self._socket.close()
        self.theirs.close()


class Prepared:
    """A layout in a slot's memory.

    Attributes:
        inputs: arrays over the inputs, in the model's order.
        outputs: arrays over those outputs whose places are known, by name.
        message: what asks the worker to run it.
        described: whether the worker was told the layout.
    """

    __slots__ = ("described", "inputs", "message", "outputs")

    def __init__(self, memory: TensorMemory, uid: int, layout: MemoryLayout) -> None:
        self.inputs = [memory.view(placed) for placed in layout.inputs]
        self.outputs = {placed.name: memory.view(placed) for placed in layout.placed}
        self.message = messages.run(uid, layout.size)
        self.described = False


class Slot:
    """What one run at a time needs: a channel to a thread of the worker, and the memory that its tensors lie in."""

    def __init__(self) -> None:
        self.memory = TensorMemory()
        self.channel = Channel()
        self._prepared: dict[int, Prepared] = {}
        self._mappings = 0

    def prepare(self, uid: int, layout: MemoryLayout) -> Prepared:
        """A layout in the memory, which grows for it if it must.

        Args:
            uid: the layout's number, to recognise it by.

        Raises:
            Overloaded: there isn't enough memory.
        """
        self.memory.reserve(layout.size)
        if self._mappings != self.memory.mappings or len(self._prepared) >= messages.MAX_LAYOUTS:
            self._prepared.clear()  # its arrays would keep the memory's last mapping
            self._mappings = self.memory.mappings
        if (prepared := self._prepared.get(uid)) is None:
            prepared = self._prepared[uid] = Prepared(self.memory, uid, layout)
        return prepared

    def close(self) -> None:
        self.channel.close()
        self._prepared.clear()
        self.memory.close()


class DeviceProcess:
    """A worker process. It is never revived: a device that lost its process gets another one.

    Attributes:
        failure: why it ended, or is about to; None while it lives.
        pid: its process number.

    Raises:
        OSError: the system has no process, descriptor or memory left.
    """

    def __init__(self, device: Device) -> None:
        self.failure: str | None = None
        self._device = device
        self._controlling = threading.Lock()
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        with ExitStack() as opened:  # closed again if there is no process to use it
            self._control = opened.enter_context(closing(Channel()))
            slots = [opened.enter_context(closing(Slot())) for _ in range(device.instances)]
            theirs = [(slot.channel.theirs.fileno(), slot.memory.descriptor) for slot in slots]
            job = {"device": asdict(device), "control": self._control.theirs.fileno(), "slots": theirs}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "turnout_server.devices.worker", json.dumps(job)],
                pass_fds=[self._control.theirs.fileno(), *(descriptor for pair in theirs for descriptor in pair)],
                stdin=subprocess.DEVNULL,
            )
            opened.pop_all()
        for channel in (self._control, *(slot.channel for slot in slots)):
            channel.theirs.close()
        for slot in slots:
            self._slots.put(slot)
        self.pid = self._process.pid

    def ask(self, command: str, *arguments: Any) -> Any:
        """Has the worker execute a command; returns its answer.

        Raises:
            DeviceLost: there was no answer.
            ServingError: the worker's own.
        """
        with self._controlling:
            return self.exchange(self._control, messages.call(command, *arguments), LOAD_TIMEOUT_S)[1]

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """A slot for one run; waits until one is free.

        Raises:
            DeviceLost: the process has ended.
        """
        slot = self._slots.get()
        try:
            if self.failure is not None:
                raise self.lost()
            yield slot
        finally:
            self._slots.put(slot)

    def exchange(self, channel: Channel, message: bytes, timeout_s: float) -> tuple[str, Any]:
        """Sends a message and waits for its answer; kills a worker that gives none in time.

        Returns:
            `ok` and the result, or `unknown layout`.

        Raises:
            DeviceLost: there was no answer.
            ServingError: the worker's own.
        """
        try:
            kind, result = channel.exchange(message, timeout_s)
        except TimeoutError:
            self.end(f"it did not answer within {timeout_s:.1f} s")
            raise self.lost(ran=True, suspect=True) from None
        except (EOFError, OSError, pickle.UnpicklingError, ValueError, IndexError):
            self._process.kill()
            self.wait()
            raise self.lost(ran=True, suspect=self._process.returncode not in _FROM_OUTSIDE) from None
        if kind == "sticky":
            self.end(f"it cannot recover: {result}")
            raise self.lost(ran=True)
        if kind == "error":
            raise result
        return kind, result

    def end(self, why: str) -> None:
        """Kills the process; everything that waits for it fails."""
        if self.failure is None:
            self.failure = why
        self._process.kill()

    def lost(self, *, ran: bool = False, suspect: bool = False) -> DeviceLost:
        """The error of everything that it was asked; see DeviceLost for the rest."""
        return DeviceLost(f"device '{self._device.name}' was lost: {self.failure}", ran=ran, suspect=suspect)

    def wait(self) -> None:
        """Returns once the process has ended, by itself or by `end`."""
        status = self._process.wait()
        if self.failure is None:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            self.failure = f"its process {how}"

    def close(self) -> None:
        """Waits for the process to end and frees what was shared with it. Runs that wait for a slot fail."""
        self.wait()
        with self._controlling:
            self._control.close()
        slots = [self._slots.get() for _ in range(self._device.instances)]
        for slot in slots:
            slot.close()
            self._slots.put(slot)
