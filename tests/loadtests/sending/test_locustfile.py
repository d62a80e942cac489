"""Runs real Locust, headless, against a real server."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from turnout_loadtests.cells import Cell, Load
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.run import first_error, locustfile, run_cell
from turnout_loadtests.samples import Samples


@pytest.fixture
def load(fake: str) -> Load:
    return Load(host=fake, model="add", device="cpu", batch=2, users=2, warm_up_s=1.0, duration_s=2.0)


def locust(*options: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "locust", "-f", str(locustfile()), "--headless", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def test_a_cell_has_exact_latencies_and_the_servers_own_times(load: Load, tmp_path: Path) -> None:
    shares: list[float] = []
    cell = run_cell(load, tmp_path / "samples.npz", shares.append)
    assert cell.service_p50_ms is not None
    assert cell.service_p50_ms > 2.0
    assert cell.failures == 0
    assert cell.rows_per_s == 2 * cell.requests_per_s > 0
    assert (cell.queue_p50_us, cell.compute_p50_us, cell.rows_run_together) == (100, 2000, 2)
    assert cell.answered_by == {"cpu": cell.requests}
    assert cell.duration_s == pytest.approx(load.duration_s, abs=0.5)
    assert shares == sorted(shares)
    samples = Samples.load(tmp_path / "samples.npz")
    assert samples.began_s.min() < samples.window_s[0]  # recorded, but not measured
    assert cell.requests < len(samples.began_s)


def test_failures_never_enter_latencies(load: Load, tmp_path: Path) -> None:
    options = {"--host": load.host, "--device": "failing", "--warm-up": "0.2", "--duration": "2", "--json-file": "stats"}
    done = locust(*[text for pair in options.items() for text in pair], cwd=tmp_path)
    stats: list[dict[str, Any]] = json.loads((tmp_path / "stats.json").read_text())
    assert done.returncode == 1  # some requests failed
    assert stats[0]["num_requests"] == stats[0]["num_failures"] > 0
    assert stats[0]["response_times"] == {}
    assert "Traceback" not in done.stderr
    cell = run_cell(replace(load, device="failing"), tmp_path / "samples.npz")
    assert (cell.service_p50_ms, cell.requests_per_s) == (None, 0.0)
    assert cell.failures_by_code == {"RESOURCE_EXHAUSTED": cell.requests}


MIXED = f"""
import runpy
from turnout_proto import inference_pb2 as pb

Inference = runpy.run_path({str(locustfile())!r})["Inference"]

class Fast(Inference):
    fixed_count = 1

class Slow(Inference):
    def on_start(self):
        slow = pb.ModelInferRequest()
        slow.CopyFrom(self.requests[0])
        slow.parameters["device"].string_param = "slow"
        self.requests = [slow]
        super().on_start()
"""


def test_a_fast_call_is_not_held_up_by_slow_ones_in_the_same_process(fake: str, tmp_path: Path) -> None:
    """With blocking calls, ten slow ones in flight would hold all threads of the pool, and fast ones would wait."""
    (tmp_path / "mixed.py").write_text(MIXED)
    options = ["--host", fake, "-u", "21", "-r", "21", "--duration", "3", "--device", "cpu", "--samples", "mixed.npz"]
    command = [sys.executable, "-m", "locust", "-f", "mixed.py", "--headless", "--only-summary", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    samples = Samples.load(tmp_path / "mixed.npz")
    took_s = samples.ended_s - samples.began_s
    assert (samples.device == "slow").sum() > 20
    assert sorted(took_s[samples.device == "cpu"])[(samples.device == "cpu").sum() // 2] < 0.1


def test_failures_on_a_missing_device_are_counted_by_code(load: Load, tmp_path: Path) -> None:
    cell: Cell = run_cell(replace(load, device="cuda", users=1), tmp_path / "samples.npz")
    assert cell.failures_by_code == {"FAILED_PRECONDITION": cell.requests}
    assert "no answers" in cell.flags


def test_an_unknown_model_stops_locust_with_one_line(load: Load, tmp_path: Path) -> None:
    done = locust("--host", load.host, "--model", "nope", "--duration", "20", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown model 'nope'" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(LoadTestError, match="exit code 2: asking the server failed with NOT_FOUND: unknown model 'nope'"):
        run_cell(replace(load, model="nope"), tmp_path / "samples.npz")


def test_workers_each_write_their_samples(load: Load, tmp_path: Path) -> None:
    done = locust(
        "--host", load.host, "--processes", "2", "-u", "4", "-r", "4", "--duration", "1", "--samples", "s.npz", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sum(len(Samples.load(tmp_path / f"s-{worker}.npz").began_s) > 0 for worker in (0, 1)) == 2


def test_the_first_error_of_a_log_is_reported() -> None:
    log = "[2026] host/INFO/locust: a\n[2026] host/ERROR/locust.runners: no: it broke\n[2026] host/ERROR/x: later\n"
    assert first_error(log) == "no: it broke"
    assert first_error("a\nb\n") == "b"
    assert first_error("") == "it printed nothing"
