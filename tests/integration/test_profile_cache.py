"""Tests that a start reuses the profiles of an earlier one."""

import time
from pathlib import Path

from turnout_server.devices.host import usable_cpus

from tests import models
from tests.servers import Process, RunningServer

#: Iterations of the model's loop that take some tens of milliseconds.
ITERATIONS = 40_000


def seconds_to_ready(repository: Path, cache: Path) -> float:
    """The time from binding the ports to readiness, in seconds."""
    flags = ["--grpc-port=0", "--metrics-port=0", f"--cache-dir={cache}"]
    process = Process(f"--model-repository={repository}", *flags)
    try:
        server = RunningServer(process)
        bound_s = time.monotonic()
        with server.channel:
            server.wait_until_ready()
            return time.monotonic() - bound_s
    finally:
        process.end()


def test_a_start_with_cached_profiles_takes_less_than_half_the_time(tmp_path: Path) -> None:
    models.save(tmp_path / "models", "slow", models.lazy(ITERATIONS), configuration="max_batch_size: 64")
    first_s = seconds_to_ready(tmp_path / "models", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1 + 2 * (usable_cpus() > 1)  # and both ways of the trial
    second_s = seconds_to_ready(tmp_path / "models", tmp_path / "cache")
    print(f"ready {first_s:.2f} s after binding the ports, and {second_s:.2f} s with cached profiles")
    assert second_s < first_s / 2
