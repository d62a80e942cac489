"""Devices that live in a process of their own, as their parent sees them.

When such a process dies, hangs or says that its device is beyond repair, it is killed and everything it was running fails with
DeviceLost. A new one is started after a pause that grows with each failure, its models are opened again, and only then is the
device ready once more. Whatever runs elsewhere never notices.
"""

import json
import logging
import queue
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from turnout_server.config import RuntimeOptions
from turnout_server.devices import Device
from turnout_server.errors import DeviceLost, FailedPrecondition, ServingError
from turnout_server.lanes import Memory
from turnout_server.signatures import TensorSpec

logger = logging.getLogger(__name__)

#: A run may take this many times as long as the longest one so far, but never less than the device's `watchdog_s`.
PATIENCE = 20.0
#: Starting a process, opening a model and its first run may take this long: CUDA compiles and tunes then.
LOAD_TIMEOUT_S = 300.0
#: Pauses between a failure and the next start.
BACK_OFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
#: A process that lived as long as this has recovered; its next failure counts as the first.
STABLE_S = 60.0


class Lane:
    """One run at a time: a connection to a thread of the child, and the memory that its tensors lie in."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        self.memory = Memory()

    def close(self) -> None:
        self.connection.close()
        self.memory.close()


class Generation:
    """One child process from start to end. It is never revived: the next one is another generation."""

    def __init__(self, device: Device) -> None:
        ours, theirs = socket.socketpair()
        self._control = Connection(ours.detach())
        self._controlling = threading.Lock()
        self.lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        lanes = [Lane() for _ in range(device.instances)]
        descriptors = [(lane.theirs.fileno(), lane.memory.descriptor) for lane in lanes]
        job = {"device": asdict(device), "control": theirs.fileno(), "lanes": descriptors}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "turnout_server.child", json.dumps(job)],
            pass_fds=[theirs.fileno(), *(descriptor for pair in descriptors for descriptor in pair)],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        for lane in lanes:
            lane.theirs.close()
            self.lanes.put(lane)
        self.pid = self._process.pid
        self.failure: str | None = None

    def ask(self, command: str, *arguments: Any) -> Any:
        """Has the child do something; returns what it answers.

        Raises:
            DeviceLost: it didn't answer; any ServingError that it answered with.
        """
        with self._controlling:
            return self.exchange(self._control, (command, *arguments), LOAD_TIMEOUT_S)

    def exchange(self, connection: Connection, message: Any, timeout_s: float) -> Any:
        """Sends a message and waits for its answer; a child that doesn't give one is ended."""
        try:
            connection.send(message)
            if not connection.poll(timeout_s):
                raise self.end(f"it did not answer within {timeout_s:.1f} s")
            kind, result = connection.recv()
        except (EOFError, OSError):
            raise self.end("its process ended") from None
        if kind == "sticky":
            raise self.end(f"its device cannot recover: {result}")
        if kind == "error":
            raise result
        return result

    def end(self, why: str) -> DeviceLost:
        """Kills the child, if nobody has yet; returns the error for those who waited for it."""
        if self.failure is None:
            self.failure = why
        self._process.kill()
        return DeviceLost(f"the device's process was lost: {self.failure}")

    def wait(self) -> None:
        """Returns once the child has ended, by itself or by `end`."""
        status = self._process.wait()
        if self.failure is None:
            self.failure = f"its process ended with status {status}"


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
        self._longest_s: float | None = None

    def __del__(self) -> None:
        self._owner.dropped.append(self.number)

    def open_in(self, generation: Generation) -> None:
        """Has this generation's process load the model."""
        answer = generation.ask("open", self.number, str(self.path), self.options)
        self.inputs, self.outputs, self.placement = answer
        self._longest_s = None

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See Session.run. Raises DeviceLost besides."""
        generation = self._owner.generation()
        lane = generation.lanes.get()
        try:
            started_s = time.monotonic()
            message = (self.number, lane.memory.put(inputs), list(outputs))
            places = generation.exchange(lane.connection, message, self._patience_s())
            results = lane.memory.get(places)
            copies = [np.array(results[index]) for index in range(len(outputs))]
        finally:
            generation.lanes.put(lane)
        self._longest_s = max(self._longest_s or 0.0, time.monotonic() - started_s)
        return copies

    def _patience_s(self) -> float:
        if self._longest_s is None:
            return LOAD_TIMEOUT_S
        return max(self._owner.device.watchdog_s, PATIENCE * self._longest_s)


class ChildEngine:
    """The engine of a device whose sessions live in a child process, which a supervising thread replaces whenever it ends.

    Args:
        changed: called whenever the device became ready or stopped being so.

    Raises:
        FailedPrecondition: a test run on the device doesn't succeed.
    """

    def __init__(self, device: Device, changed: Callable[[], None] = lambda: None) -> None:
        self.device = device
        self.restarts = 0
        self.dropped: deque[int] = deque()
        self._changed = changed
        self._numbers = count(1)
        self._sessions: dict[int, weakref.ref[RemoteSession]] = {}
        self._opening = threading.Lock()
        self._stopping = threading.Event()
        self._generation = self._start()
        self._ready = True
        self._supervisor = threading.Thread(target=self._supervise, name=f"supervisor {device.name}", daemon=True)
        self._supervisor.start()

    def open(self, path: Path, options: RuntimeOptions) -> RemoteSession:
        """Opens a model there.

        Raises:
            FailedPrecondition: the model is unusable on this device.
            DeviceLost: the device is restarting.
        """
        with self._opening:
            generation = self.generation()
            self._close_dropped(generation)
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
        if self._ready:
            return None
        return DeviceLost(f"device '{self.device.name}' is restarting: {self._generation.failure}")

    def stop(self) -> None:
        """Ends the process for good."""
        self._stopping.set()
        self._generation.end("the server is stopping")
        self._supervisor.join()

    def _start(self) -> Generation:
        generation = Generation(self.device)
        try:
            problem = generation.ask("probe")
        except DeviceLost as error:
            raise FailedPrecondition(str(error)) from None
        if problem is not None:
            generation.end(problem)
            raise FailedPrecondition(problem)
        return generation

    def _supervise(self) -> None:
        failures = 0
        while True:
            started_s = time.monotonic()
            self._generation.wait()
            if self._stopping.is_set():
                return
            self._ready = False
            self._changed()
            logger.error("device %s was lost: %s", self.device.name, self._generation.failure)
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
        generation: Generation | None = None
        try:
            with self._opening:
                generation = self._start()
                for session in [reference() for reference in self._sessions.values()]:
                    if session is not None:
                        session.open_in(generation)
                self._generation = generation
        except ServingError as error:
            if generation is not None:
                generation.end(str(error))
            logger.error("device %s does not start: %s", self.device.name, error)
            return False
        self._ready = True
        self._changed()
        logger.warning("device %s is back", self.device.name)
        return True

    def _close_dropped(self, generation: Generation) -> None:
        """Has the process forget the sessions that nobody here holds any more."""
        while self.dropped:
            number = self.dropped.popleft()
            self._sessions.pop(number, None)
            generation.ask("close", number)
