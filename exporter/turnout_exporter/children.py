"""Runs work in a new child process.

torch keeps state between exports (a second LSTM in one process fails), and both torch and ONNX Runtime can crash their process.
A child reads its job from a file and answers on its standard output, one JSON object per line: any number of steps, details and
notes, then one result or error. What it or the user's code prints goes to a log.
"""

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from turnout_exporter.errors import KINDS, ChildDied, ChildTimedOut, ExportError

Json = dict[str, Any]

THREADS = min(2, os.cpu_count() or 1)  #: for each library in a child; more don't speed up a check
_TICK_S = 1.0
_LOG_TAIL_CHARACTERS = 4000
_ENVIRONMENT = {
    # Since 1.29 ONNX Runtime sends telemetry, unless it is switched off before the import.
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_TELEMETRY_DISABLED": "1",
    # With torch's spinning threads, small models ran five times slower on two busy cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A factory that fills its weights in the order of a set makes the same model in every child.
    "PYTHONHASHSEED": "0",
}


class Progress(Protocol):
    """Receives the progress of a child."""

    def step(self, title: str) -> None:
        """A step has begun."""

    def detail(self, text: str) -> None:
        """How far the step is."""

    def note(self, text: str) -> None:
        """Something that the user should know, although nothing failed."""

    def tick(self) -> None:
        """The step goes on; called about every second."""

    def failed(self) -> None:
        """The step failed; the export may go on all the same."""


def run(module: str, title: str, job: Json, directory: Path, progress: Progress, timeout_s: float | None = None) -> Json:
    """Runs `python -m <module>` on a job and returns its result.

    Args:
        module: a module that calls `answer`.
        title: the title of its first step.
        job: what `answer` passes to the function that does the work.
        directory: where the files of the job and the log are written.
        progress: told about every step.
        timeout_s: how long the child may take; None for no limit.

    Raises:
        ExportError: the error that the child raised, ChildDied or ChildTimedOut.
    """
    job_file, log_file = directory / f"{module}.job.json", directory / f"{module}.log"
    job_file.write_text(json.dumps(job))
    # -P: a file of the user's with the name of a library must not replace the library.
    command = [sys.executable, "-P", "-m", module, str(job_file)]
    answer: Json = {}
    progress.step(title)
    with log_file.open("wb") as log, _start(command, log.fileno()) as process:
        try:
            for message in _messages(process, progress, timeout_s):
                for kind, value in message.items():
                    if kind in ("step", "detail", "note"):
                        getattr(progress, kind)(value)
                        title = value if kind == "step" else title
                    else:
                        answer = message
        except TimeoutError:
            _kill(process)
            progress.failed()
            raise ChildTimedOut(f"it took longer than {timeout_s:.0f} s: {title}") from None
        except BaseException:  # an interrupt, for example: the child's answer isn't needed any more
            _kill(process)
            raise
    try:
        return _result(answer, process.returncode, title, log_file.read_text(errors="replace"))
    except ExportError:
        progress.failed()
        raise


def _start(command: list[str], log: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=os.environ | _ENVIRONMENT,
        start_new_session=True,  # so that its own children can be killed with it
        bufsize=0,
    )


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kills a child and the processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all of them have ended
        process.kill()


def _messages(process: "subprocess.Popen[bytes]", progress: Progress, timeout_s: float | None) -> Iterator[Json]:
    """What the child sends, until it ends; `progress` ticks meanwhile.

    Raises:
        TimeoutError: it is still running after `timeout_s`.
    """
    assert process.stdout is not None
    began_s, unread = time.monotonic(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if timeout_s is not None and time.monotonic() - began_s > timeout_s:
                raise TimeoutError
            if not selector.select(_TICK_S):
                progress.tick()
                continue
            chunk = process.stdout.read(65536)
            if not chunk:
                return
            *lines, unread = (unread + chunk).split(b"\n")
            yield from map(json.loads, lines)


def _result(answer: Json, returncode: int, title: str, log: str) -> Json:
    if returncode == 0 and "result" in answer:
        result: Json = answer["result"]
        return result
    if returncode == 0 and "error" in answer:
        error = answer["error"]
        raise KINDS[error["kind"]](error["message"], error["detail"])
    tail = log[-_LOG_TAIL_CHARACTERS:].strip()
    raise ChildDied(f"{_cause_of_death(returncode, tail)}, while: {title}", tail)


def _cause_of_death(returncode: int, log: str) -> str:
    if returncode >= 0:
        return f"the child process ended with status {returncode} ({log.splitlines()[-1] if log else 'no message'})"
    name = signal.Signals(-returncode).name
    hint = ", usually for want of memory" if name == "SIGKILL" else ""
    return f"the child process was killed by {name}{hint}"


class Channel:
    """The child's side: tells the parent how far the work is."""

    def __init__(self, send: Callable[[Json], None]) -> None:
        self._send = send

    def step(self, title: str) -> None:
        self._send({"step": title})

    def detail(self, text: str) -> None:
        self._send({"detail": text})

    def note(self, text: str) -> None:
        self._send({"note": text})


def answer(work: Callable[[Json, Channel], Json]) -> None:
    """The child's side of `run`: reads the job named on the command line, does the work and answers."""
    _die_with_parent()
    with os.fdopen(os.dup(1), "w", buffering=1) as pipe:
        os.dup2(2, 1)

        def send(message: Json) -> None:
            pipe.write(json.dumps(message) + "\n")

        job = json.loads(Path(sys.argv[1]).read_text())
        try:
            send({"result": work(job, Channel(send))})
        except ExportError as error:
            send({"error": _describe(error, type(error).__name__, str(error))})
        except Exception as error:  # the boundary of the process: the parent can't see an exception
            send({"error": _describe(error, ExportError.__name__, f"{type(error).__name__}: {error}")})


def _die_with_parent() -> None:
    """Asks Linux to kill this process when its parent is gone, which a killed parent can't do itself."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _describe(error: Exception, kind: str, message: str) -> Json:
    return {"kind": kind, "message": message, "detail": "".join(traceback.format_exception(error))}
