"""Who wants to know when something becomes ready or stops being so."""

import threading
from collections.abc import Callable


class Listeners:
    """Callbacks that are told of every change of state. Any thread may call any method."""

    def __init__(self) -> None:
        self.ended = False
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Tells `callback` from now on; returns what ends that."""
        with self._lock:
            self._callbacks.append(callback)
        return lambda: self._remove(callback)

    def notify(self) -> None:
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def end(self) -> None:
        """Says once more that something changed, and that nothing will from now on."""
        self.ended = True
        self.notify()

    def _remove(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
