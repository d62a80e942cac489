"""Devices' processes that fail when a test says so."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    """Returns once that is so; for what another process does and nobody tells."""
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, "it did not become so in time"
        time.sleep(0.005)


def freeze(process: psutil.Process) -> None:
    """Stops a process; returns once each of its threads stands still."""
    process.suspend()
    until(lambda: all(_state(task) == "T" for task in Path(f"/proc/{process.pid}/task").iterdir()))


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(") ")[2][0]


class Faults:
    """What the processes that are started with `environment` do wrong, told through files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        path = [str(Path(__file__).parent / "path"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(path), "FAULTS": str(directory)}

    def at(self, moment: str, *faults: str) -> None:
        """Has these happen, one each time that the moment comes: `start` of a process, `load` of a model, or a `run`."""
        (self._directory / "happened").unlink(missing_ok=True)
        (self._directory / "next").write_text("\n".join(faults))
        (self._directory / "next").rename(self._directory / moment)

    def clear(self) -> None:
        """Has nothing more happen."""
        for file in self._directory.iterdir():
            file.unlink(missing_ok=True)

    def wait_until_happening(self) -> None:
        """Returns once the first of them happens."""
        until((self._directory / "happened").exists)
