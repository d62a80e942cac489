"""SIGTERM and SIGINT: the first asks the process to stop, the second ends it at once.

A thread takes the signals from a pipe that Python's own handler writes to, so that they count even while the main thread is
busy in native code, where handlers don't run.
"""

import faulthandler
import os
import signal
import socket
import sys
import threading
from types import FrameType

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Catches the signals from now on, until the process ends. Create it once, in the main thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._serving = False
        self._lock = threading.Lock()
        self._limit_s = 0.0
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in NUMBERS:
            signal.signal(number, _handled_by_the_thread)
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def serve(self, limit_s: float) -> None:
        """From now on the first signal only asks to stop; before this it ends the process, because there is nothing to finish.

        Args:
            limit_s: how long stopping may take; after that the process is ended, with the stacks of its threads in the log.
        """
        with self._lock:
            self._serving, self._limit_s = True, limit_s

    def wait(self) -> None:
        """Waits for the first signal."""
        self._asked.wait()

    def _run(self) -> None:
        while True:
            for number in self._signals.recv(16):
                if number in NUMBERS:
                    self._take(number)

    def _take(self, number: int) -> None:
        with self._lock:
            if not self._serving:
                print("turnout-server: stopped while starting", file=sys.stderr, flush=True)
                os._exit(0)
            if self._asked.is_set():
                os._exit(128 + number)
            self._asked.set()
            # A thread of C, which ends the process even if native code never gives the interpreter back.
            faulthandler.dump_traceback_later(self._limit_s, exit=True)


def _handled_by_the_thread(number: int, frame: FrameType | None) -> None:
    """Does nothing: installing a handler is what makes Python write the signal to the pipe."""
