"""Runs the locustfile with real Locust, against servers of known latency."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from turnout_loadtests.sending.load import locustfile
from turnout_loadtests.sending.samples import Samples


def locust(*options: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "locust", "-f", str(locustfile()), "--headless", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=cwd)


@contextmanager
def page(host: str, port: int, cwd: Path, *options: str) -> Iterator[str]:
    """Locust's page, once it answers."""
    command = [sys.executable, "-m", "locust", "-f", str(locustfile()), "--host", host, "--web-host", "127.0.0.1"]
    with subprocess.Popen([*command, "--web-port", str(port), *options], cwd=cwd, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(150):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def ask(url: str, **form: str) -> tuple[int, Any]:
    data = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, data, timeout=30) as answer:
        return answer.status, json.loads(answer.read())


def rows(stats: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(stats)
    return {row["name"]: row for row in found}


def test_locusts_own_figures_are_those_of_the_window(fake: str, tmp_path: Path) -> None:
    """The slow device answers twice a second and user. Counted from the start, the warm-up would halve that."""
    options = "--users", "4", "--spawn-rate", "4", "--warm-up", "3", "--duration", "3", "--stop-timeout", "5"
    done = locust(
        "AutoUser", "--host", fake, "--device", "slow", *options, "--samples", "s.npz", "--json-file", "stats", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    samples = Samples.load(tmp_path / "s.npz")
    in_window = (samples.due_s >= samples.window_s[0]) & (samples.due_s < samples.window_s[1])
    (row,) = rows((tmp_path / "stats.json").read_text()).values()
    assert row["num_requests"] == in_window.sum()
    assert row["num_requests"] / (row["last_request_timestamp"] - row["start_time"]) == pytest.approx(8.0, rel=0.25)


def workers(port: int) -> tuple[str, ...]:
    """Options for two workers, and a master on this port: its usual one may be taken by another run of these tests."""
    return "--processes", "2", "--master-bind-port", str(port), "--master-port", str(port)


def test_the_masters_figures_are_those_of_the_window_too(fake: str, closed_port: int, tmp_path: Path) -> None:
    options = (
        "--users", "4", "--spawn-rate", "4", "--warm-up", "4", "--duration", "6", "--json-file", "stats",
        *workers(closed_port),
    )  # fmt: skip
    done = locust("AutoUser", "--host", fake, "--device", "slow", *options, "--samples", "s.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counted = 0
    for worker in (0, 1):
        samples = Samples.load(tmp_path / f"s-{worker}.npz")
        counted += int(((samples.due_s >= samples.window_s[0]) & (samples.due_s < samples.window_s[1])).sum())
    (row,) = rows((tmp_path / "stats.json").read_text()).values()
    assert row["num_requests"] == counted == pytest.approx(48, rel=0.2)
    assert row["num_requests"] / (row["last_request_timestamp"] - row["start_time"]) == pytest.approx(8.0, rel=0.25)


def test_failures_are_counted_by_text_and_never_enter_latencies(fake: str, tmp_path: Path) -> None:
    options = "AutoUser", "--host", fake, "--device", "failing", "--duration", "1"
    done = locust(*options, "--json-file", "stats", cwd=tmp_path)
    assert done.returncode == 1  # some requests failed
    (row,) = rows((tmp_path / "stats.json").read_text()).values()
    assert row["num_requests"] == row["num_failures"] > 0
    assert row["response_times"] == {}
    said = locust(*options, cwd=tmp_path)  # with --json-file Locust prints no table of errors
    assert "RESOURCE_EXHAUSTED: the queue of 'failing' is full" in said.stdout + said.stderr
    assert "Traceback" not in done.stderr


def test_an_open_load_arrives_at_users_times_rate(fake: str, tmp_path: Path) -> None:
    options = "--arrival", "open", "--rate-per-user", "25", "--users", "4", "--spawn-rate", "4", "--duration", "3"
    done = locust("CpuUser", "--host", fake, *options, "--samples", "s.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    samples = Samples.load(tmp_path / "s.npz")
    count = int(((samples.due_s >= samples.window_s[0]) & (samples.due_s < samples.window_s[1])).sum())
    assert count == pytest.approx(300, rel=0.25)
    assert set(samples.device) == {"cpu"}


def test_streams_are_recorded(fake: str, tmp_path: Path) -> None:
    done = locust("StreamUser", "--host", fake, "--duration", "1", "--json-file", "stats", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = rows((tmp_path / "stats.json").read_text()).values()
    assert row["name"].endswith("stream")
    assert row["num_requests"] > 50


def test_users_whose_device_is_missing_are_left_out_unless_they_were_named(fake: str, tmp_path: Path) -> None:
    done = locust("--host", fake, "--duration", "1", "--users", "4", "--spawn-rate", "4", "--json-file", "stats", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CudaUser is left out: device 'cuda' is not available" in done.stderr
    assert not any("cuda" in name for name in rows((tmp_path / "stats.json").read_text()))
    named = locust("CudaUser", "--host", fake, "--duration", "1", cwd=tmp_path)
    assert named.returncode == 2
    assert "device 'cuda' is not available" in named.stderr
    assert "Traceback" not in named.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "nope"), "unknown model 'nope'"),
        (("--batch", "0"), "--batch is 0, but has to be a whole number above 0"),
        (("--arrival", "open", "--rate-per-user", "0"), "--rate-per-user is 0.0, but has to be"),
        (("--payload", "missing.npz"), "missing.npz"),
        (("--payload", "golden"), "golden"),
    ],
)
def test_a_test_that_cannot_start_ends_with_one_line(options: tuple[str, ...], said: str, fake: str, tmp_path: Path) -> None:
    done = locust("CpuUser", "--host", fake, "--duration", "20", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missed_target_fails_the_test(fake: str, tmp_path: Path) -> None:
    options = "AutoUser", "--host", fake, "--device", "slow", "--duration", "2"
    done = locust(*options, "--slo-p99-ms", "50", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"p99 is [\d.]+ ms, and the target 50 ms", done.stderr)
    assert locust(*options, "--slo-p99-ms", "5000", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with workers"])
def test_a_target_is_not_kept_where_nothing_was_answered(alone: bool, fake: str, closed_port: int, tmp_path: Path) -> None:
    """The first request would come after hours."""
    options = "--arrival", "open", "--rate-per-user", "1e-5", "--users", "2", "--duration", "1", "--warm-up", "0.5"
    processes = () if alone else workers(closed_port)
    done = locust("AutoUser", "--host", fake, *options, "--slo-p99-ms", "50", *processes, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("no request was answered") == 1


def test_the_page_has_the_options_says_what_is_wrong_and_shows_devices(fake: str, closed_port: int, tmp_path: Path) -> None:
    with page(fake, closed_port, tmp_path, "--class-picker") as url:
        html = urllib.request.urlopen(url, timeout=10).read().decode()
        for name in ("batch", "rate_per_user", "slo_p99_ms", "arrival"):
            assert re.search(rf'"{name}"', html), name
        assert '"samples"' not in html
        assert '"model_repository"' not in html
        usual = {"user_count": "2", "spawn_rate": "2", "host": fake, "user_classes": "CpuUser", "duration": "0"}
        for form, said in (
            ({"batch": "x"}, "--batch is 'x', but has to be"),
            ({"samples": "/tmp/overwritten.npz"}, "no field 'samples'"),
            ({"payload": "/etc/passwd"}, "files are named on the command line"),
            ({"model": "nope"}, "unknown model 'nope'"),
            ({"device": "cuda"}, "device 'cuda' is not available"),
        ):
            status, answer = ask(f"{url}/swarm", **usual, **form)
            assert (status, answer["success"]) == (200, False), form
            assert said in answer["message"]
        assert ask(f"{url}/swarm", **usual)[1]["success"] is True
        time.sleep(3)
        (devices,) = ask(f"{url}/stats/requests")[1]["extended_stats"]
        assert devices["key"] == "devices"
        assert devices["data"][0]["answered_by"] == "cpu"
        assert float(devices["data"][0]["compute_ms"]) >= 2
