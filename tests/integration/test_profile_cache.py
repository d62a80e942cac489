"""What one start measured spares the next one the measuring."""

import time
from pathlib import Path

from tests import models
from tests.servers import Process, RunningServer

#: Rounds that take some tens of milliseconds.
ROUNDS = 40_000


def seconds_to_ready(repository: Path, cache: Path) -> float:
    """From a server's ports being bound to its being ready."""
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


def test_a_start_that_finds_its_profiles_is_ready_in_half_the_time_or_less(tmp_path: Path) -> None:
    models.save(tmp_path / "models", "slow", models.lazy(ROUNDS), configuration="max_batch_size: 64")
    first_s = seconds_to_ready(tmp_path / "models", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1
    second_s = seconds_to_ready(tmp_path / "models", tmp_path / "cache")
    print(f"ready {first_s:.2f} s after its ports, and {second_s:.2f} s with the profiles of that start")
    assert second_s < first_s / 2
