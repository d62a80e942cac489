"""Faults in device processes, which tests provoke."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    """Returns once the condition holds; for changes in other processes, which send no notice."""
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s, "the condition did not hold in time"
        time.sleep(0.005)


def freeze(process: psutil.Process) -> None:
    """Stops a process; returns once all of its threads have stopped."""
    process.suspend()
    until(lambda: all(_state(task) == "T" for task in Path(f"/proc/{process.pid}/task").iterdir()))


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(") ")[2][0]


class Faults:
    """The faults of processes that are started with `environment`, which read them from files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        path = [str(Path(__file__).parent / "path"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(path), "FAULTS": str(directory)}

    def at(self, moment: str, *faults: str) -> None:
        """Provokes these faults one by one, each time a process reaches the moment: `start`, `load` of a model, or `run`."""
        (self._directory / "happened").unlink(missing_ok=True)
        (self._directory / "next").write_text("\n".join(faults))
        (self._directory / "next").rename(self._directory / moment)

    def clear(self) -> None:
        """Cancels the faults that haven't happened yet."""
        for file in self._directory.iterdir():
            file.unlink(missing_ok=True)

    def wait_until_happening(self) -> None:
        """Returns once the first of the faults happens."""
        until((self._directory / "happened").exists)
