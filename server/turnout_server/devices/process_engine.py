"""The engine of a device whose sessions live in a worker process.

When the process ends, a new one is started after a pause that grows with each failure. Its models are opened again, and only
then is the device ready once more. Other devices don't notice.
"""

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from turnout_server.core.errors import DeviceLost, FailedPrecondition, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.device import Device
from turnout_server.devices.process import DeviceProcess
from turnout_server.devices.remote_session import RemoteSession

logger = logging.getLogger(__name__)

#: Pauses between a failure and the next start.
BACK_OFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
#: A process that lived this long has recovered; its next failure counts as the first.
STABLE_S = 60.0
#: Internal errors in a row, whatever the models, after which a test run shows whether the device still works.
SUSPICIOUS_FAILURES = 5
#: What a process needs for itself, and for the stack of each thread of a model.
PROCESS_MB, THREAD_MB = 32, 8
#: A killed process that isn't gone after this long hangs in a driver, and is left to the system.
STOP_TIMEOUT_S = 5.0


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

    Raises:
        FailedPrecondition: a test run on the device doesn't succeed.
    """

    def __init__(self, device: Device, changed: Callable[[], None] = lambda: None) -> None:
        self.device = device
        self.restarts = 0
        #: Numbers of sessions that nobody holds any more; None at the end. Its `put` may be called from a destructor.
        self._dropped: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._failures_in_a_row = 0
        self._changed = changed
        self._numbers = count(1)
        self._sessions: dict[int, weakref.ref[RemoteSession]] = {}
        self._opening = threading.Lock()
        self._replacing = threading.Lock()
        self._stopping = threading.Event()
        self._ready = threading.Event()
        try:
            self._start()
        except (ServingError, OSError) as error:
            raise FailedPrecondition(f"{error}{_hint(device)}") from None
        self._ready.set()
        self._threads = [
            threading.Thread(target=self._supervise, name=f"supervisor {device.name}", daemon=True),
            threading.Thread(target=self._close_dropped, name=f"closer {device.name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> RemoteSession:
        """See Engine.open.

        Raises:
            FailedPrecondition: the model is unusable on this device.
            DeviceLost: the device is restarting.
        """
        with self._opening:
            process = self.process()
            session = RemoteSession(self, next(self._numbers), path, options, buckets, graphs=graphs)
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

    def dropped(self, number: int) -> None:
        """Nobody holds a session any more: the worker closes it soon."""
        self._dropped.put(number)

    def ran(self, process: DeviceProcess, *, failed: bool) -> None:
        """Counts how runs end. Several failures in a row may mean that the device is broken in a way that nobody recognised."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
        if self._failures_in_a_row < SUSPICIOUS_FAILURES:
            return
        self._failures_in_a_row = 0
        with suppress(DeviceLost):
            if (reason := process.ask("probe")) is not None:
                process.end(f"{SUSPICIOUS_FAILURES} runs in a row failed, and so did a test run: {reason}")

    def unavailable_reason(self) -> ServingError | None:
        """See Engine."""
        if self._ready.is_set() and self._process.failure is None:
            return None
        why = self._process.failure or "its models are being opened"
        return DeviceLost(f"device '{self.device.name}' is restarting: {why}")

    def await_ready(self, timeout_s: float) -> None:
        """See Engine."""
        self._ready.wait(timeout_s)

    def stop(self) -> None:
        """Ends the process for good."""
        with self._replacing:
            self._stopping.set()
            self._process.end("the server is stopping")
        self._dropped.put(None)
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
            self._ready.clear()
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
        self._ready.set()
        logger.warning("device %s is back", self.device.name)
        self._changed()
        return True

    def _close_dropped(self) -> None:
        """Closes the sessions in the worker that nobody holds any more."""
        for number in iter(self._dropped.get, None):
            with self._opening, suppress(ServingError):  # a process that is gone has none to close
                self._sessions.pop(number, None)
                self.process().ask("close", number)
