"""Devices that live in a process of their own, as their parent sees them.

When such a process dies, hangs or says that its device is beyond repair, it is killed and everything it was running fails with
DeviceLost. A new one is started after a pause that grows with each failure, its models are opened again, and only then is the
device ready once more. Whatever runs elsewhere never notices.
"""

import json
import logging
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from turnout_server.core.errors import DeviceLost, FailedPrecondition, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.device import Device
from turnout_server.devices.tensor_memory import Memory

logger = logging.getLogger(__name__)

#: A run may take this many times as long as the longest one so far, but never less than the device's `watchdog_s`.
PATIENCE = 20.0
#: Starting a process, opening a model and its very first run may take this long: CUDA compiles and tunes then.
LOAD_TIMEOUT_S = 300.0
#: Pauses between a failure and the next start.
BACK_OFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
#: A process that lived as long as this has recovered; its next failure counts as the first.
STABLE_S = 60.0
#: What a process may need for itself, and for the stack of each thread of a model.
LITTLE_MB, THREAD_MB = 32, 8
#: A killed process that isn't gone after this long hangs in a driver, and is left to the system.
STOP_TIMEOUT_S = 5.0


class Line:
    """Messages to one thread of the child, and its answers. Nothing here waits longer than it was told to."""

    def __init__(self) -> None:
        self._socket, self.theirs = socket.socketpair()
        self._answers = self._socket.makefile("rb")

    def exchange(self, message: Any, timeout_s: float) -> Any:
        """Sends a message and waits for its answer.

        Raises:
            TimeoutError: there was none in time.
            EOFError, OSError, UnpicklingError: the other end is gone.
        """
        self._socket.settimeout(timeout_s)
        self._socket.sendall(pickle.dumps(message))
        return pickle.load(self._answers)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()
        self.theirs.close()


class Lane:
    """One run at a time: a line to a thread of the child, and the memory that its tensors lie in."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.line = Line()

    def close(self) -> None:
        self.line.close()
        self.memory.close()


class Generation:
    """One child process from start to end. It is never revived: the next one is another generation.

    Attributes:
        failure: why it ended, or is about to; None while it lives.

    Raises:
        OSError: the system has no process, descriptor or memory left.
    """

    def __init__(self, device: Device) -> None:
        self.failure: str | None = None
        self._device = device
        self._controlling = threading.Lock()
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        with ExitStack() as opened:  # closed again if there is no process to use it
            self._control = opened.enter_context(closing(Line()))
            lanes = [opened.enter_context(closing(Lane())) for _ in range(device.instances)]
            theirs = [(lane.line.theirs.fileno(), lane.memory.descriptor) for lane in lanes]
            job = {"device": asdict(device), "control": self._control.theirs.fileno(), "lanes": theirs}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "turnout_server.devices.worker", json.dumps(job)],
                pass_fds=[self._control.theirs.fileno(), *(descriptor for pair in theirs for descriptor in pair)],
                stdin=subprocess.DEVNULL,
            )
            opened.pop_all()
        for line in (self._control, *(lane.line for lane in lanes)):
            line.theirs.close()
        for lane in lanes:
            self._lanes.put(lane)
        self.pid = self._process.pid

    def ask(self, command: str, *arguments: Any) -> Any:
        """Has the child do something; returns what it answers.

        Raises:
            DeviceLost: it didn't answer.
            ServingError: what it answered with.
        """
        with self._controlling:
            return self.exchange(self._control, (command, *arguments), LOAD_TIMEOUT_S)

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane for one run; waits until one is free.

        Raises:
            DeviceLost: the child has ended.
        """
        lane = self._lanes.get()
        try:
            if self.failure is not None:
                raise self.lost()
            yield lane
        finally:
            self._lanes.put(lane)

    def exchange(self, line: Line, message: Any, timeout_s: float) -> Any:
        """Sends a message and waits for its answer; a child that doesn't give one is ended."""
        try:
            kind, result = line.exchange(message, timeout_s)
        except TimeoutError:
            self.end(f"it did not answer within {timeout_s:.1f} s")
            raise self.lost() from None
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process.kill()
            self.wait()
            raise self.lost() from None
        if kind == "sticky":
            self.end(f"it cannot recover: {result}")
            raise self.lost()
        if kind == "error":
            raise result
        return result

    def end(self, why: str) -> None:
        """Kills the child; everything that waits for it fails."""
        if self.failure is None:
            self.failure = why
        self._process.kill()

    def lost(self) -> DeviceLost:
        """The error of those who needed it."""
        return DeviceLost(f"device '{self._device.name}' was lost: {self.failure}")

    def wait(self) -> None:
        """Returns once the child has ended, by itself or by `end`."""
        status = self._process.wait()
        if self.failure is None:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            self.failure = f"its process {how}"

    def close(self) -> None:
        """Waits for the child's end and gives back what it shared. Whoever waits for a lane learns that it is of no use."""
        self.wait()
        with self._controlling:
            self._control.close()
        lanes = [self._lanes.get() for _ in range(self._device.instances)]
        for lane in lanes:
            lane.close()
            self._lanes.put(lane)


class RemoteSession:
    """A session in a child process; the same to its callers as one in this process."""

    def __init__(self, owner: "ChildEngine", number: int, path: Path, options: RuntimeOptions) -> None:
        self._owner = owner
        self.number = number
        self.path = path
        self.options = options
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.placement: Mapping[str, int] = {}
        self.graphs: Mapping[int, str] = {}
        self._problem: str | None = None
        self._longest_s: float | None = None  # of every process's runs: the next one's first takes as long as this one's did

    def __del__(self) -> None:
        self._owner.dropped.put(self.number)

    def open_in(self, generation: Generation) -> None:
        """Has this generation's process load the model."""
        self.inputs, self.outputs, self.placement = generation.ask("open", self.number, str(self.path), self.options)
        if self._owner.device.graph_rows:  # recorded by the lane's thread, because they are that thread's
            with generation.lane() as lane:
                self.graphs = generation.exchange(lane.line, ("bind", self.number), LOAD_TIMEOUT_S)

    def reopen_in(self, generation: Generation) -> None:
        """Loads the model again; one that can't be any more, because its file is gone, say, keeps no other from coming back."""
        self._problem = None
        try:
            self.open_in(generation)
        except DeviceLost:
            raise
        except ServingError as error:
            self._problem = f"the model could not be opened again when the device restarted: {error}"
            logger.error("%s on %s: %s", self.path, self._owner.device.name, self._problem)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See Session.run. Raises DeviceLost besides."""
        generation = self._owner.generation()
        if self._problem is not None:
            raise DeviceLost(self._problem)
        with generation.lane() as lane:
            started_s = time.monotonic()
            message = ("run", self.number, lane.memory.put(inputs), list(outputs))
            places = generation.exchange(lane.line, message, self._patience_s())
            results = lane.memory.get(places)
            copies = [np.array(results[index]) for index in range(len(outputs))]
        self._longest_s = max(self._longest_s or 0.0, time.monotonic() - started_s)
        return copies

    def trim(self) -> None:
        """See Session.trim."""
        self._owner.generation().ask("trim", self.number)

    def _patience_s(self) -> float:
        if self._longest_s is None:
            return LOAD_TIMEOUT_S
        return max(self._owner.device.watchdog_s, PATIENCE * self._longest_s)


def _hint(device: Device) -> str:
    """What may have kept a process from working that tells nothing better than that it couldn't."""
    little_mb = LITTLE_MB + device.threads * THREAD_MB
    if device.kind != "cpu" or not 0 < device.memory_limit_mb < little_mb:
        return ""
    return f"; memory_limit_mb = {device.memory_limit_mb} may be too little for its process"


class ChildEngine:
    """The engine of a device whose sessions live in a child process, which a supervising thread replaces whenever it ends.

    Args:
        changed: called whenever the device became ready or stopped being so.

    Attributes:
        dropped: numbers of the sessions that nobody here holds any more, for the process to forget; None at the end.

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
            generation = self.generation()
            session = RemoteSession(self, next(self._numbers), path, options)
            session.open_in(generation)
            self._sessions[session.number] = weakref.ref(session)
            return session

    def generation(self) -> Generation:
        """The process that runs now.

        Raises:
            DeviceLost: there is none at the moment.
        """
        if (problem := self.problem()) is not None:
            raise problem
        return self._generation

    def problem(self) -> ServingError | None:
        """Why nothing can run here now; None if it can."""
        if self._ready and self._generation.failure is None:
            return None
        why = self._generation.failure or "its models are being opened"
        return DeviceLost(f"device '{self.device.name}' is restarting: {why}")

    def stop(self) -> None:
        """Ends the process for good."""
        with self._replacing:
            self._stopping.set()
            self._generation.end("the server is stopping")
        self.dropped.put(None)
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)

    def _start(self) -> None:
        """Replaces the process by a new one, with the models of the old, in which everything works."""
        with self._replacing:
            if self._stopping.is_set():
                raise DeviceLost("the server is stopping")
            generation = self._generation = Generation(self.device)
        try:
            if (problem := generation.ask("probe")) is not None:
                raise FailedPrecondition(problem)
            for session in [reference() for reference in self._sessions.values()]:
                if session is not None:
                    session.reopen_in(generation)
        except ServingError as error:
            generation.end(str(error))
            generation.close()
            raise

    def _supervise(self) -> None:
        failures = 0
        while True:
            started_s = time.monotonic()
            self._generation.wait()
            self._ready = False
            if self._stopping.is_set():
                self._generation.close()
                return
            logger.error("%s", self._generation.lost())
            self._changed()
            self._generation.close()
            failures = 0 if time.monotonic() - started_s > STABLE_S else failures
            while not self._restart(failures):
                failures += 1
                if self._stopping.is_set():
                    return
            failures += 1

    def _restart(self, failures: int) -> bool:
        """Waits, and starts a new process with the models of the old one; False if that failed."""
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
        """Has the process forget the sessions that nobody here holds any more."""
        for number in iter(self.dropped.get, None):
            with self._opening, suppress(ServingError):  # a process that is gone has none to close
                self._sessions.pop(number, None)
                self.generation().ask("close", number)
