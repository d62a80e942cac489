"""One cell run: Locust as a child process, headless, its samples read back from a file."""

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
SOME_REQUESTS_FAILED = 1  # Locust's exit code for it

Tick = Callable[[float], None]


def run_cell(load: Load, samples: Path, tick: Tick = lambda share: None) -> Cell:
    """Apply the load for its warm-up and its duration, and summarise it.

    Args:
        samples: where the raw samples stay.
        tick: called several times a second with the share of the cell that is over, 0 to 1.

    Raises:
        LoadTestError: Locust couldn't measure; requests that merely fail are part of the cell.
    """
    samples.parent.mkdir(parents=True, exist_ok=True)
    given, pressure_percent = arguments(load, samples), idle_pressure_percent()
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen([sys.executable, *given], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            code = _wait(child, load.warm_up_s + load.duration_s, tick)
        finally:
            child.kill()
            child.wait()
        if code not in {0, SOME_REQUESTS_FAILED} or not samples.exists():
            log.seek(0)
            raise LoadTestError(f"Locust stopped with exit code {code}: {first_error(log.read())}")
    return summarise(load, Samples.load(samples), shlex.join(["python", *given]), pressure_percent)


def arguments(load: Load, samples: Path) -> list[str]:
    """Locust's, for this load."""
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
    """`locustfile.py`: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "locustfile.py"
    return inside if inside.exists() else package.parent / "locustfile.py"


def first_error(log: str) -> str:
    """What Locust logged as an error first; its last line where it logged none."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line.partition(": ")[2] for line in lines if "/ERROR/" in line]
    return (errors or lines[-1:] or ["it printed nothing"])[0]


def _wait(child: "subprocess.Popen[bytes]", expected_s: float, tick: Tick) -> int:
    began_s = time.monotonic()
    while (waited_s := time.monotonic() - began_s) < expected_s + REQUEST_TIMEOUT_S + START_AND_STOP_S:
        tick(min(1.0, waited_s / (expected_s + 1)))
        try:
            return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    raise LoadTestError(f"Locust was still running after {waited_s:.0f} s and was stopped")
