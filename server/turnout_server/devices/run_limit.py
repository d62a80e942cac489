"""Ends a run that may have no end, at a time that its caller states.

ONNX Runtime checks between two nodes whether a run was told to end (RunOptions.terminate): an endless Loop ended within 1 ms, a
single long node runs to its end.
"""

import heapq
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Any

import onnxruntime

#: How ONNX Runtime begins the text of a run that was ended.
ENDED = "Exiting due to terminate flag"

_current = threading.local()


@contextmanager
def limited(at_s: float) -> Iterator[None]:
    """Runs of this thread in here end at this time, on the monotonic clock."""
    _current.at_s = at_s
    try:
        yield
    finally:
        _current.at_s = None


def within(timeout_s: float) -> AbstractContextManager[None]:
    """The same for so long from now; 0 for no limit."""
    return limited(time.monotonic() + timeout_s) if timeout_s else nullcontext()


def limit_s() -> float | None:
    """When the runs of this thread end; None for whenever they do."""
    at_s: float | None = getattr(_current, "at_s", None)
    return at_s


class _Alarm:
    """Sets the flags of runs whose time has come, in a thread of its own."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Any]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def set(self, at_s: float, options: Any) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._wait, name="run limits", daemon=True)
                self._thread.start()
            heapq.heappush(self._due, (at_s, next(self._numbers), options))
            self._changed.notify()

    def _wait(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                _, _, options = heapq.heappop(self._due)
            options.terminate = True
            del options


_alarm = _Alarm()


def terminable(at_s: float) -> Any:
    """Options of a run that ends at this time."""
    options = onnxruntime.RunOptions()
    _alarm.set(at_s, options)
    return options
