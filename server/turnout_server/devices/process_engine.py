"""The engine of a device whose sessions live in a worker process.

When the process ends, a new one is started after a pause that grows with each failure. Its models are opened again, and only
then is the device ready once more. Other devices don't notice.
"""

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np

from turnout_server.core.errors import DeviceLost, FailedPrecondition, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.device import Device
from turnout_server.devices.process import LOAD_TIMEOUT_S, DeviceProcess

logger = logging.getLogger(__name__)

#: A run may take this many times as long as the longest one so far, but at least the device's `watchdog_s`.
WATCHDOG_FACTOR = 20.0
#: Pauses between a failure and the next start.
BACK_OFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
#: A process that lived this long has recovered; its next failure counts as the first.
STABLE_S = 60.0
#: What a process needs for itself, and for the stack of each thread of a model.
PROCESS_MB, THREAD_MB = 32, 8
#: A killed process that isn't gone after this long hangs in a driver, and is left to the system.
STOP_TIMEOUT_S = 5.0


class RemoteSession:
    """A session in a worker process; its callers can't tell it from one in this process."""

    def __init__(self, owner: "ProcessEngine", number: int, path: Path, options: RuntimeOptions) -> None:
        self._owner = owner
        self.number = number
        self.path = path
        self.options = options
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.placement: Mapping[str, int] = {}
        self.graphs: Mapping[int, str] = {}
        self._reopen_error: str | None = None
        self._longest_s: float | None = (
            None  # over all processes, because the first run in the next one takes as long as in this one
        )

    def __del__(self) -> None:
        self._owner.dropped.put(self.number)

    def open_in(self, process: DeviceProcess) -> None:
        """Opens the model in this process."""
        self.inputs, self.outputs, self.placement = process.ask("open", self.number, str(self.path), self.options)
        if self._owner.device.graph_rows:  # captured by the slot's thread, because a graph belongs to its thread
            with process.slot() as slot:
                self.graphs = process.exchange(slot.channel, ("bind", self.number), LOAD_TIMEOUT_S)

    def reopen_in(self, process: DeviceProcess) -> None:
        """Opens the model again. If that fails, because its file is gone, for example, other models still come back."""
        self._reopen_error = None
        try:
            self.open_in(process)
        except DeviceLost:
            raise
        except ServingError as error:
            self._reopen_error = f"the model could not be opened again when the device restarted: {error}"
            logger.error("%s on %s: %s", self.path, self._owner.device.name, self._reopen_error)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See Session.run. Raises DeviceLost besides."""
        process = self._owner.process()
        if self._reopen_error is not None:
            raise DeviceLost(self._reopen_error)
        with process.slot() as slot:
            started_s = time.monotonic()
            message = ("run", self.number, slot.memory.put(inputs), list(outputs))
            references = process.exchange(slot.channel, message, self._timeout_s())
            results = slot.memory.get(references)
            copies = [np.array(results[index]) for index in range(len(outputs))]
        self._longest_s = max(self._longest_s or 0.0, time.monotonic() - started_s)
        return copies

    def trim(self) -> None:
        """See Session.trim."""
        self._owner.process().ask("trim", self.number)

    def _timeout_s(self) -> float:
        if self._longest_s is None:
            return LOAD_TIMEOUT_S
        return max(self._owner.device.watchdog_s, WATCHDOG_FACTOR * self._longest_s)


def _hint(device: Device) -> str:
    """What may have kept a process from working that couldn't say why itself."""
    needed_mb = PROCESS_MB + device.threads * THREAD_MB
    if device.kind != "cpu" or not 0 < device.memory_limit_mb < needed_mb:
        return ""
    return f"; memory_limit_mb = {device.memory_limit_mb} may be too little for its process"


class ProcessEngine:
    """The engine of a device whose sessions live in a worker process, which a supervisor thread replaces whenever it ends.

    Args:
        changed: called whenever the device becomes ready or stops being ready.

    Attributes:
        dropped: numbers of sessions that nobody holds any more, for the worker to close; None at the end.

    Raises:
        FailedPrecondition: a test run on the device doesn't succeed.
    """

    def __init__(self, device: Device, changed: Callable[[], None] = lambda: None) -> None:
        self.device = device
        self.restarts = 0
        self.dropped: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # its `put` may be called from a destructor
        self._changed = changed
        self._numbers = count(1)
        self._sessions: dict[int, weakref.ref[RemoteSession]] = {}
        self._opening = threading.Lock()
        self._replacing = threading.Lock()
        self._stopping = threading.Event()
        self._ready = False
        try:
            self._start()
        except (ServingError, OSError) as error:
            raise FailedPrecondition(f"{error}{_hint(device)}") from None
        self._ready = True
        self._threads = [
            threading.Thread(target=self._supervise, name=f"supervisor {device.name}", daemon=True),
            threading.Thread(target=self._close_dropped, name=f"closer {device.name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def open(self, path: Path, options: RuntimeOptions) -> RemoteSession:
        """Opens a model there.

        Raises:
            FailedPrecondition: the model is unusable on this device.
            DeviceLost: the device is restarting.
        """
        with self._opening:
            process = self.process()
            session = RemoteSession(self, next(self._numbers), path, options)
            session.open_in(process)
            self._sessions[session.number] = weakref.ref(session)
            return session

    def process(self) -> DeviceProcess:
        """The process that runs now.

        Raises:
            DeviceLost: there is none at the moment.
        """
        if (reason := self.unavailable_reason()) is not None:
            raise reason
        return self._process

    def unavailable_reason(self) -> ServingError | None:
        """See Engine."""
        if self._ready and self._process.failure is None:
            return None
        why = self._process.failure or "its models are being opened"
        return DeviceLost(f"device '{self.device.name}' is restarting: {why}")

    def stop(self) -> None:
        """Ends the process for good."""
        with self._replacing:
            self._stopping.set()
            self._process.end("the server is stopping")
        self.dropped.put(None)
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)

    def _start(self) -> None:
        """Starts a process, proves that the device works in it, and opens the models of the one before."""
        with self._replacing:
            if self._stopping.is_set():
                raise DeviceLost("the server is stopping")
            process = self._process = DeviceProcess(self.device)
        try:
            if (reason := process.ask("probe")) is not None:
                raise FailedPrecondition(reason)
            for session in [reference() for reference in self._sessions.values()]:
                if session is not None:
                    session.reopen_in(process)
        except ServingError as error:
            process.end(str(error))
            process.close()
            raise

    def _supervise(self) -> None:
        failures = 0
        while True:
            started_s = time.monotonic()
            self._process.wait()
            self._ready = False
            if self._stopping.is_set():
                self._process.close()
                return
            logger.error("%s", self._process.lost())
            self._changed()
            self._process.close()
            failures = 0 if time.monotonic() - started_s > STABLE_S else failures
            while not self._restart(failures):
                failures += 1
                if self._stopping.is_set():
                    return
            failures += 1

    def _restart(self, failures: int) -> bool:
        """Waits, then starts a new process; False if that failed."""
        if self._stopping.wait(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]):
            return False
        self.restarts += 1
        try:
            with self._opening:
                self._start()
        except (ServingError, OSError) as error:
            logger.error("device %s does not start: %s", self.device.name, error)
            return False
        self._ready = True
        logger.warning("device %s is back", self.device.name)
        self._changed()
        return True

    def _close_dropped(self) -> None:
        """Closes the sessions in the worker that nobody holds any more."""
        for number in iter(self.dropped.get, None):
            with self._opening, suppress(ServingError):  # a process that is gone has none to close
                self._sessions.pop(number, None)
                self.process().ask("close", number)
