"""The CPU in the server's process, with a process beside it for models that a value of a request could end or occupy."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turnout_server.core.errors import FailedPrecondition, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.device import Device
from turnout_server.devices.hazards import hazards
from turnout_server.devices.process_engine import ProcessEngine
from turnout_server.devices.sessions import Session

if TYPE_CHECKING:
    from turnout_server.devices.engines import Engine


class GuardedEngine:
    """Opens most models in this process, and hazardous ones in a process that is started for the first of them.

    Args:
        inside: opens the others.
        changed: called whenever that process became ready or stopped being so.
    """

    def __init__(self, inside: "Engine", changed: Callable[[], None]) -> None:
        self.device: Device = inside.device
        self._inside = inside
        self._changed = changed
        self._outside: ProcessEngine | None = None
        self._starting = threading.Lock()

    @property
    def restarts(self) -> int:
        return self._outside.restarts if self._outside else 0

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        """See Engine.open."""
        found = hazards(path)
        if not found:
            return self._inside.open(path, options, buckets)
        try:
            return self._process().open(path, options, buckets)
        except OSError as error:
            raise FailedPrecondition(f"it needs a process of its own, because {found[0]}; there is none: {error}") from None

    def unavailable_reason(self) -> ServingError | None:
        """None: what runs in this process always can."""
        return None

    def await_ready(self, timeout_s: float) -> None:
        """See Engine."""
        if self._outside is not None:
            self._outside.await_ready(timeout_s)

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._outside is not None:
            self._outside.stop()

    def _process(self) -> ProcessEngine:
        with self._starting:
            if self._outside is None:
                self._outside = ProcessEngine(self.device, self._changed)
            return self._outside
