"""Runs one cell: starts Locust without its web page, and reads the samples that it wrote to a file."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from turnout_loadtests.cells import Cell, Load, summarise
from turnout_loadtests.environment import idle_pressure_percent
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.samples import Samples

REQUEST_TIMEOUT_S = 30
START_AND_STOP_S = 60  # more than Locust needs to import, connect and write its samples
SOME_REQUESTS_FAILED = 1  # an exit code of Locust

Tick = Callable[[float], None]


def run_cell(load: Load, samples: Path, tick: Tick = lambda share: None) -> Cell:
    """Applies the load for its warm-up and its duration, and summarises its samples.

    Args:
        samples: the file for the raw samples.
        tick: called several times a second with the share of the time that is over, 0 to 1.

    Raises:
        LoadTestError: Locust couldn't measure. Failed requests raise nothing: they are part of the cell.
    """
    samples.parent.mkdir(parents=True, exist_ok=True)
    given, pressure_percent = arguments(load, samples), idle_pressure_percent()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, *given], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            code = _wait(process, load.warm_up_s + load.duration_s, tick)
        finally:
            process.kill()
            process.wait()
        if code not in {0, SOME_REQUESTS_FAILED} or not samples.exists():
            log.seek(0)
            raise LoadTestError(f"Locust stopped with exit code {code}: {first_error(log.read())}")
    return summarise(load, Samples.load(samples), shlex.join(["python", *given]), pressure_percent)


def arguments(load: Load, samples: Path) -> list[str]:
    """The arguments of Python that run Locust with this load."""
    options = {
        "--host": load.host,
        "--model": load.model,
        "--device": load.device,
        "--batch": load.batch,
        "--shape": load.shape,
        "--inputs": load.inputs,
        "--users": load.users,
        "--spawn-rate": min(load.users, 100),
        "--warm-up": f"{load.warm_up_s:g}",
        "--duration": f"{load.duration_s:g}",
        "--request-timeout": REQUEST_TIMEOUT_S,
        "--stop-timeout": REQUEST_TIMEOUT_S,
        "--samples": samples,
    }
    pairs = [text for name, value in options.items() if value != "" for text in (name, str(value))]
    return ["-m", "locust", "-f", os.path.relpath(locustfile()), "--headless", "--only-summary", *pairs]


def locustfile() -> Path:
    """The path of `locustfile.py`: inside the package if it was installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "locustfile.py"
    return inside if inside.exists() else package.parent / "locustfile.py"


def first_error(log: str) -> str:
    """The first error in Locust's log; the log's last line if there is none."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line.partition(": ")[2] for line in lines if "/ERROR/" in line]
    return (errors or lines[-1:] or ["it printed nothing"])[0]


def _wait(process: "subprocess.Popen[bytes]", expected_s: float, tick: Tick) -> int:
    began_s = time.monotonic()
    while (waited_s := time.monotonic() - began_s) < expected_s + REQUEST_TIMEOUT_S + START_AND_STOP_S:
        tick(min(1.0, waited_s / (expected_s + 1)))
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    raise LoadTestError(f"Locust was still running after {waited_s:.0f} s and was stopped")
