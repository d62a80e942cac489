"""Runs work in a new child process.

torch keeps state between exports (a second LSTM in one process fails), and both torch and ONNX Runtime can crash their process.
A child reads its job from a file and answers on its standard output, one JSON object per line: any number of `step`s, then one
`result` or `error`. What it or the user's code prints goes to a log.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turnout_exporter.errors import KINDS, ChildDied, ExportError

Json = dict[str, Any]
Step = Callable[[str], None]  #: called with the title of the step that begins

THREADS = min(2, os.cpu_count() or 1)  #: for each library in a child; more don't speed up a check
_LOG_TAIL_CHARACTERS = 4000
_ENVIRONMENT = {
    # Since 1.29 ONNX Runtime sends telemetry, unless it is switched off before the import.
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_TELEMETRY_DISABLED": "1",
    # With torch's spinning threads, small models ran five times slower on two busy cores.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def run(module: str, title: str, job: Json, directory: Path, step: Step) -> Json:
    """Runs `python -m <module>` on a job and returns its result.

    Args:
        module: a module that calls `answer`.
        title: the title of its first step.
        job: what `answer` passes to the function that does the work.
        directory: where the files of the job and the log are written.
        step: called with the title of every step.

    Raises:
        ExportError: the error that the child raised, or ChildDied.
    """
    job_file, log_file = directory / f"{module}.job.json", directory / f"{module}.log"
    job_file.write_text(json.dumps(job))
    # -P: a file of the user's with the name of a library must not replace the library.
    command = [sys.executable, "-P", "-m", module, str(job_file)]
    answer: Json = {}
    step(title)
    with log_file.open("wb") as log, _start(command, log.fileno()) as process:
        try:
            for line in process.stdout or ():
                answer = json.loads(line)
                if "step" in answer:
                    title = answer["step"]
                    step(title)
        except BaseException:  # an interrupt, for example: the child's answer isn't needed any more
            process.kill()
            raise
    return _result(answer, process.returncode, title, log_file.read_text(errors="replace"))


def _start(command: list[str], log: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=os.environ | _ENVIRONMENT,
        text=True,
    )


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


def answer(work: Callable[[Json, Step], Json]) -> None:
    """The child's side of `run`: reads the job named on the command line, does the work and answers."""
    with os.fdopen(os.dup(1), "w", buffering=1) as channel:
        os.dup2(2, 1)

        def send(message: Json) -> None:
            channel.write(json.dumps(message) + "\n")

        job = json.loads(Path(sys.argv[1]).read_text())
        try:
            send({"result": work(job, lambda title: send({"step": title}))})
        except ExportError as error:
            send({"error": _describe(error, type(error).__name__, str(error))})
        except Exception as error:  # the boundary of the process: the parent can't see an exception
            send({"error": _describe(error, ExportError.__name__, f"{type(error).__name__}: {error}")})


def _describe(error: Exception, kind: str, message: str) -> Json:
    return {"kind": kind, "message": message, "detail": "".join(traceback.format_exception(error))}
