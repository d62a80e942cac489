"""The control thread: loads and unloads models, one change at a time, away from the threads that answer requests."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from turnout_server.core.errors import ServingError, Unavailable, internal_error
from turnout_server.core.listeners import Listeners

if TYPE_CHECKING:  # settings need Mode even where ONNX Runtime is broken
    from turnout_server.models.model_version import ModelVersion
    from turnout_server.models.profiler import Profiler
    from turnout_server.models.repository import Repository

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How long a change in progress is waited for when the server stops.
STOP_TIMEOUT_S = 5.0
#: `none` loads every model at the start; `poll` also follows changes on disk; `explicit` loads what clients ask for.
Mode = Literal["none", "poll", "explicit"]
#: Receives the outcome of a load or unload: None, or the error.
OnSettled = Callable[[ServingError | None], None]


class Control:
    """Runs the loads and unloads of a repository, and observes it.

    Args:
        profiler: measures the models that were loaded.
        changes: notified after every change of a model's state.
        load_models: the models that mode `explicit` loads at the start; `*` stands for all.
        poll_s: seconds between two scans of the disk in mode `poll`.
    """

    def __init__(
        self,
        repository: "Repository",
        profiler: "Profiler",
        changes: Listeners,
        *,
        mode: Mode = "none",
        load_models: list[str] | None = None,
        poll_s: float = 15.0,
    ) -> None:
        self._repository = repository
        self._profiler = profiler
        self._changes = changes
        self._mode = mode
        self._names = set(load_models or []) if mode == "explicit" and "*" not in (load_models or []) else None
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._reloading: set[str] = set()
        self._lock = threading.Lock()
        self._submitted: set[Future[Any]] = set()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control")
        self._poller = threading.Thread(target=self._poll, name="poller", daemon=True)
        repository.observer = self

    def start(self) -> None:
        """Starts to load the initial models, and to poll in mode `poll`."""
        self._enqueue(lambda: self._guarded(lambda: self._repository.start(self._names)))
        if self._mode == "poll":
            self._poller.start()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Starts no further changes, and waits for the one in progress up to `timeout_s`: a load may never end."""
        self._stopping.set()
        self._worker.shutdown(wait=False, cancel_futures=True)
        if wait(list(self._submitted), timeout_s).not_done:
            logger.warning("a load or unload is still in progress, and isn't waited for")

    def load(self, name: str, configuration: str, settled: OnSettled) -> None:
        """Loads a model; see Repository.load.

        Raises:
            Unavailable: this server's mode doesn't allow it.
        """
        self._submit(lambda: self._load(name, configuration), settled)

    def _load(self, name: str, configuration: str) -> None:
        try:
            self._repository.load(name, configuration)
        except ServingError as error:  # who asked is told; an operator sees only the log
            logger.error("model %s failed to load: %s", name, error)
            raise

    def unload(self, name: str, settled: OnSettled) -> None:
        """Unloads a model; see Repository.unload.

        Raises:
            Unavailable: this server's mode doesn't allow it.
        """
        self._submit(lambda: self._repository.unload(name), settled)

    def reopen(self) -> None:
        """Reloads the models that lack a device which works again."""
        with suppress(RuntimeError):  # the server is shutting down
            self._enqueue(lambda: self._guarded(self._repository.reopen))

    def changed(self) -> None:
        """See Observer."""
        self._changes.notify()

    def loaded(self, version: "ModelVersion") -> None:
        """See Observer."""
        self._profiler.add(version)

    def settling(self) -> None:
        """See Observer."""
        self._profiler.settle()

    def wanted(self, name: str) -> None:
        """See Observer: reloads an evicted model, once however many requests ask for it."""
        with self._lock:
            if name in self._reloading:
                return
            self._reloading.add(name)
        with suppress(RuntimeError):  # the server is shutting down
            self._enqueue(lambda: self._reload(name))

    def _reload(self, name: str) -> None:
        error = self._guarded(lambda: self._repository.load(name))
        if error is not None:
            logger.error("model %s could not be loaded again: %s", name, error)
        with self._lock:
            self._reloading.discard(name)

    def _submit(self, change: Callable[[], None], settled: OnSettled) -> None:
        if self._mode != "explicit":
            why = "if polling is enabled" if self._mode == "poll" else "without --model-control-mode=explicit"
            raise Unavailable(f"explicit model load / unload is not allowed {why}")
        try:
            self._enqueue(lambda: settled(self._guarded(change)))
        except RuntimeError:
            raise Unavailable("the server is shutting down") from None

    def _enqueue(self, change: Callable[[], T]) -> "Future[T]":
        """Has the control thread make a change; RuntimeError if the server is shutting down."""
        submitted = self._worker.submit(change)
        self._submitted.add(submitted)
        submitted.add_done_callback(self._submitted.discard)
        return submitted

    def _guarded(self, change: Callable[[], None]) -> ServingError | None:
        try:
            change()
        except ServingError as error:
            return error
        except Exception:
            hidden = internal_error()
            logger.exception("a change of the model repository failed: %s", hidden)
            return hidden
        return None

    def _poll(self) -> None:
        """Makes the worker scan the disk every `poll_s` seconds; between two scans it is free for other changes."""
        while not self._stopping.wait(self._poll_s):
            try:
                error = self._enqueue(lambda: self._guarded(self._repository.poll)).result()
            except (RuntimeError, CancelledError):  # the server is shutting down
                return
            if error is not None:
                logger.error("polling the model repository failed: %s", error)
