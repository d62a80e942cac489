"""Callbacks for changes of readiness."""

import threading
from collections.abc import Callable


class Listeners:
    """Callbacks that are called at every change of state. Any thread may call any method.

    Attributes:
        ended: no further change will follow.
    """

    def __init__(self) -> None:
        self.ended = False
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` at every change from now on; returns a function that stops this."""
        with self._lock:
            self._callbacks.append(callback)
        return lambda: self._remove(callback)

    def notify(self) -> None:
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def end(self) -> None:
        """Notifies a last time, with `ended` set."""
        self.ended = True
        self.notify()

    def _remove(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
