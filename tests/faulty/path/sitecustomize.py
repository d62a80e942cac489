"""Python imports this at its start if this directory is on PYTHONPATH; device processes then fail as files in $FAULTS say.

A file has the name of a moment: `start`, `load` or `run`. Each of its lines is a fault, for one time that the moment comes.
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


#: The faults by name.
FAULTS_BY_NAME: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "abort": os.abort,
    "hang": lambda: time.sleep(3600),
    "sticky": lambda: _raise("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize"),
    "out of memory": lambda: _raise("Failed to allocate memory for requested buffer of size 17179869184"),
    "raise": lambda: _raise("an unexpected error"),
}


def cause(moment: str) -> None:
    """Causes the next fault that is listed for this moment."""
    taken = FAULTS / f"{moment}.{os.getpid()}"
    try:
        (FAULTS / moment).rename(taken)  # only one thread of one process succeeds
    except FileNotFoundError:
        return
    first, *rest = taken.read_text().splitlines()
    if rest:
        taken.write_text("\n".join(rest))
        taken.rename(FAULTS / moment)
    (FAULTS / "happened").touch()
    FAULTS_BY_NAME[first]()


def replace_sessions() -> None:
    """Replaces the sessions of this process by sessions with faults."""
    from turnout_server.devices import sessions

    class Runtime:
        """ONNX Runtime's own session, with faults in its runs."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def run(self, *arguments: Any) -> Any:
            cause("run")
            return self._real.run(*arguments)

        def run_with_iobinding(self, *arguments: Any) -> None:
            cause("run")
            self._real.run_with_iobinding(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    class Session(sessions.OnnxSession):
        def __init__(self, model: Any, *arguments: Any, **options: Any) -> None:
            is_test_run = isinstance(model, bytes)
            cause("start" if is_test_run else "load")
            super().__init__(model, *arguments, **options)
            if not is_test_run:
                self._session = Runtime(self._session)

    setattr(sessions, "OnnxSession", Session)  # noqa: B010, because mypy refuses an assignment


def count_every_failure_as_the_first() -> None:
    """Makes the server restart a device soon, however many faults it had before."""
    from turnout_server.devices import process_engine

    process_engine.STABLE_S = 0.0


if "turnout_server.devices.worker" in sys.orig_argv:
    replace_sessions()
elif "turnout_server" in sys.orig_argv:
    count_every_failure_as_the_first()
