"""Load shapes, run by Locust itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from turnout_loadtests.sending.load import locustfile

FILES = f"{locustfile()},{locustfile().with_name('shapes.py')}"
#: Levels after a share of the time, worked out by hand.
LEVELS = {
    "step": [(0.0, 0.2), (0.19, 0.2), (0.5, 0.6), (0.99, 1.0)],
    "spike": [(0.0, 0.1), (0.39, 0.1), (0.5, 1.0), (0.61, 0.1)],
    "diurnal": [(0.0, 0.1), (0.25, 0.55), (0.5, 1.0), (1.0, 0.1)],
}
PROBE = """
import importlib.util, json, sys
found = importlib.util.spec_from_file_location("shapes", sys.argv[1])
module = importlib.util.module_from_spec(found)
found.loader.exec_module(module)
levels = json.loads(sys.argv[2])
print(json.dumps({name: [module.SHAPES[name]().level(share) for share, _ in pairs] for name, pairs in levels.items()}))
"""


def test_shapes_have_their_levels() -> None:
    """In a process of its own, because importing Locust changes the standard library."""
    command = [sys.executable, "-c", PROBE, FILES.split(",")[1], json.dumps(LEVELS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    for name, pairs in LEVELS.items():
        assert found[name] == pytest.approx([level for _, level in pairs])


def test_locust_runs_the_shape_that_is_named(fake: str, tmp_path: Path) -> None:
    options = ["--host", fake, "--headless", "--load-shape", "step", "--users", "5", "--run-time", "8", "--json-file", "stats"]
    command = [sys.executable, "-m", "locust", "-f", FILES, "CpuUser", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Shape test starting" in done.stderr
    assert "Shape test updating to 5 users" in done.stderr
    assert json.loads((tmp_path / "stats.json").read_text())[0]["num_requests"] > 100
