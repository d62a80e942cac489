"""Decodes messages that take long, so that the transport's thread never waits for one."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from turnout_server.core.errors import Overloaded

#: Decoding holds Python's global lock most of the time, so a second thread would only help to wait.
THREADS = 1
#: How many bytes of messages may wait to be decoded; a message that waits alone may have any size.
MAX_WAITING_BYTES = 512 << 20


class Decoding:
    """A thread that decodes messages in their order. It ends when this object is released, or with the process."""

    def __init__(self, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="decoding")
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._lock = threading.Lock()

    def submit(self, size: int, decode: Callable[[], Callable[[], None]]) -> Callable[[], None]:
        """Has a message decoded and its request started.

        Args:
            size: of the message, in bytes.
            decode: must not raise; returns the function that cancels the request.

        Returns:
            The function that cancels it, at whatever stage it is.

        Raises:
            Overloaded: too many bytes wait already.
        """
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes:
                raise Overloaded(
                    f"{self._waiting_bytes} bytes of messages wait to be decoded, and {self._max_waiting_bytes} may wait; "
                    f"this message has {size}"
                )
            self._waiting_bytes += size
        pending = _Pending()

        def run() -> None:
            try:
                pending.run(decode)
            finally:
                with self._lock:
                    self._waiting_bytes -= size

        self._executor.submit(run)
        return pending.cancel


class _Pending:
    """A request whose message waits to be decoded. It can be cancelled from any thread, before and after that."""

    def __init__(self) -> None:
        self._cancelled = False
        self._cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def run(self, decode: Callable[[], Callable[[], None]]) -> None:
        if self._cancelled:  # its client has gone, and wants no answer
            return
        cancel = decode()
        with self._lock:
            self._cancel, cancelled = cancel, self._cancelled
        if cancelled:
            cancel()

    def cancel(self) -> None:
        with self._lock:
            self._cancelled, cancel = True, self._cancel
        if cancel is not None:
            cancel()
