"""The control thread: everything that loads or unloads models, one thing at a time, away from the threads that answer."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from turnout_server.core.errors import ServingError, Unavailable, internal_error

if TYPE_CHECKING:  # settings need Mode even where ONNX Runtime is broken
    from turnout_server.models.repository import Repository

logger = logging.getLogger(__name__)

#: `none` loads every model at the start; `poll` also follows what happens on disk; `explicit` loads what clients ask for.
Mode = Literal["none", "poll", "explicit"]
#: Told how a load or unload went: None, or what was wrong.
Settled = Callable[[ServingError | None], None]


class Control:
    """Runs a repository's loads and unloads.

    Args:
        load_models: what `explicit` loads at the start; `*` stands for all.
        poll_s: seconds between two looks at the disk in mode `poll`.
    """

    def __init__(self, repository: "Repository", mode: Mode, load_models: list[str], poll_s: float) -> None:
        self._repository = repository
        self._mode = mode
        self._names = set(load_models) if mode == "explicit" and "*" not in load_models else None
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._coming: set[str] = set()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control")

    def start(self) -> None:
        """Begins to load what is to be there from the start."""
        self._thread.submit(self._guarded, lambda: self._repository.start(self._names))
        if self._mode == "poll":
            self._thread.submit(self._poll)

    def stop(self) -> None:
        """Finishes what it is doing, and does nothing more."""
        self._stopping.set()
        self._thread.shutdown(cancel_futures=True)

    def load(self, name: str, configuration: str, settled: Settled) -> None:
        """Has a model loaded; see Repository.load.

        Raises:
            Unavailable: this server's mode doesn't allow it.
        """
        self._ask(lambda: self._repository.load(name, configuration), settled)

    def unload(self, name: str, settled: Settled) -> None:
        """Has a model unloaded; see Repository.unload.

        Raises:
            Unavailable: this server's mode doesn't allow it.
        """
        self._ask(lambda: self._repository.unload(name), settled)

    def reopen(self) -> None:
        """Has the models loaded again that lack a device which has come back."""
        with suppress(RuntimeError):  # the server is shutting down
            self._thread.submit(self._guarded, self._repository.reopen)

    def bring_back(self, name: str) -> None:
        """Has an evicted model loaded again, once, however many ask for it."""
        with self._lock:
            if name in self._coming:
                return
            self._coming.add(name)
        with suppress(RuntimeError):  # the server is shutting down
            self._thread.submit(self._bring_back, name)

    def _bring_back(self, name: str) -> None:
        error = self._guarded(lambda: self._repository.load(name))
        if error is not None:
            logger.error("model %s could not be loaded again: %s", name, error)
        with self._lock:
            self._coming.discard(name)

    def _ask(self, change: Callable[[], None], settled: Settled) -> None:
        if self._mode != "explicit":
            why = "if polling is enabled" if self._mode == "poll" else "without --model-control-mode=explicit"
            raise Unavailable(f"explicit model load / unload is not allowed {why}")
        try:
            self._thread.submit(lambda: settled(self._guarded(change)))
        except RuntimeError:
            raise Unavailable("the server is shutting down") from None

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
        while not self._stopping.wait(self._poll_s):
            error = self._guarded(self._repository.poll)
            if error is not None:
                logger.error("polling the model repository failed: %s", error)
