"""Values that are read from files and follow them: certificates and tokens are renewed without a restart."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
Fingerprint = tuple[tuple[int, int, int] | None, ...]

#: Seconds between two looks at the files.
POLL_S = 1.0


class Followed(Protocol):
    """Something that a Watcher keeps current."""

    def look(self) -> None:
        """Reads the files again if they have changed. Never raises."""
        ...


class WatchedFiles(Generic[T]):
    """A value read from files. `value` never touches the disk, so that any thread may use it.

    Args:
        paths: the files that it is read from; links are followed.
        read: reads it; raises OSError or ValueError, whose text must not contain a secret.
        what: what it is, for the log.

    Attributes:
        value: the last one that could be read.

    Raises:
        OSError, ValueError: it can't be read now.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], what: str) -> None:
        self._paths = paths
        self._read = read
        self._what = what
        self._seen = self._fingerprint()
        self.value = read()

    def look(self) -> None:
        """Reads the value again if its files have changed; one that can't be read leaves the earlier one in force."""
        found = self._fingerprint()
        if found == self._seen:
            return
        self._seen = found
        try:
            self.value = self._read()
        except (OSError, ValueError) as error:
            logger.error("%s could not be renewed, and the earlier ones stay in force: %s", self._what, error)
        else:
            logger.info("%s are renewed", self._what)

    def _fingerprint(self) -> Fingerprint:
        return tuple(map(_state_of, self._paths))


class Watcher:
    """Looks at files every `poll_s` seconds in a thread of its own, from `start` to `stop`."""

    def __init__(self, followed: Iterable[Followed], poll_s: float = POLL_S) -> None:
        self._followed = list(followed)
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    def start(self) -> None:
        """Starts the thread, if there is anything to follow."""
        if self._followed:
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a look that hangs, on a dead network drive for instance, isn't waited for."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_s):
            for followed in self._followed:
                followed.look()


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content; None if it can't be seen."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
