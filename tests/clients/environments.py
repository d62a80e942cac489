"""Virtual environments of clients that can't be installed beside Turnout; `make test` creates them before pytest starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KSERVE = ROOT / ".venv-kserve"
PERF = ROOT / ".venv-perf"


def run_python(environment: Path | None, script: str, *arguments: str, timeout_s: float = 60) -> str:
    """Runs a script in an environment (None for the current one), with turnout_proto on its path; returns its output.

    Raises:
        AssertionError: the script failed; the text is its standard error.
    """
    python = Path(sys.executable) if environment is None else environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no {python.parent.parent.name}; run: make {python.parent.parent.name}/.installed")
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "proto")}
    done = subprocess.run(
        [str(python), "-c", script, *arguments], capture_output=True, text=True, timeout=timeout_s, env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
