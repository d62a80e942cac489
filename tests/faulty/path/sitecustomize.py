"""Python imports this first where PYTHONPATH leads here: a device's process then fails as the files in $FAULTS say.

A file is called after the moment: `start`, `load` or `run`. It lists what is to happen there, one line each time.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = Path(os.environ["FAULTS"])


def _raise(text: str) -> None:
    raise RuntimeError(text)


#: What can happen.
ACTS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "abort": os.abort,
    "hang": lambda: time.sleep(3600),
    "sticky": lambda: _raise("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize"),
    "out of memory": lambda: _raise("Failed to allocate memory for requested buffer of size 17179869184"),
    "raise": lambda: _raise("something that nobody has thought of"),
}


def happen(moment: str) -> None:
    """Does the next thing that is listed for this moment."""
    taken = FAULTS / f"{moment}.{os.getpid()}"
    try:
        (FAULTS / moment).rename(taken)  # one process, one thread gets it
    except FileNotFoundError:
        return
    first, *rest = taken.read_text().splitlines()
    if rest:
        taken.write_text("\n".join(rest))
        taken.rename(FAULTS / moment)
    (FAULTS / "happened").touch()
    ACTS[first]()


def replace_sessions() -> None:
    """Has this process use sessions that fail when they are told to."""
    from turnout_server.devices import sessions

    class Runtime:
        """ONNX Runtime's own session, whose runs may fail."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def run(self, *arguments: Any) -> Any:
            happen("run")
            return self._real.run(*arguments)

    class Session(sessions.OnnxSession):
        def __init__(self, model: Any, *arguments: Any) -> None:
            is_test_run = isinstance(model, bytes)
            happen("start" if is_test_run else "load")
            super().__init__(model, *arguments)
            if not is_test_run:
                self._session = Runtime(self._session)

    setattr(sessions, "OnnxSession", Session)  # noqa: B010, which mypy would not have otherwise


def count_every_failure_as_the_first() -> None:
    """Has this server restart a device soon, however many faults it has had before."""
    from turnout_server.devices import process_engine as isolation

    isolation.STABLE_S = 0.0


if "turnout_server.devices.worker" in sys.orig_argv:
    replace_sessions()
elif "turnout_server" in sys.orig_argv:
    count_every_failure_as_the_first()
