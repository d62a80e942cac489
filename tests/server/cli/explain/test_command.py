"""The command as users run it, without a server; tests/integration/test_explain.py asks running servers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from turnout_server.cli.explain.command import duration_us, rate_per_s

from tests.models import add_sub, save

#: Two devices with prices, one in a process of its own.
DEVICES = """
[devices.cpu]
threads = 1
price_per_hour = 0.2
idle_w = 20
busy_w = 80
[devices."cpu:own"]
threads = 1
isolation = "process"
price_per_hour = 0.0001
[devices.cuda]
disabled = true
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explain")
    save(root / "models", "sum", add_sub(), configuration="max_batch_size: 4")
    save(root / "models", "broken", b"this is no model")
    (root / "turnout.toml").write_text(f'model_repository = "{root}/models"\n{DEVICES}')
    return root


def explain(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TURNOUT_")}
    settings = [f"--config={directory}/turnout.toml"] if directory else []
    command = [sys.executable, "-m", "turnout_server", "explain", *arguments, *settings]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean)


def test_it_prints_which_device_and_why(directory: Path) -> None:
    done = explain("sum", "--rows=2", "--deadline=50ms", "--load=10/s", directory=directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 rows of sum, version 1, would run on cpu")
    for title in ("REQUEST", "DEVICES", "PROFILES", "BATCHES", "LOAD"):
        assert f"\n{title}\n" in done.stdout


def test_the_profile_comes_from_the_cache(directory: Path, tmp_path: Path) -> None:
    first, second = (
        json.loads(explain("sum", "--json", f"--cache-dir={tmp_path}", directory=directory).stdout) for _ in range(2)
    )
    assert [device["name"] for device in first["devices"]] == ["cpu", "cpu:own"]
    assert set(first["devices"][0]["profile"]) == {"1", "2", "4"}
    assert [device["profile"] for device in first["devices"]] == [device["profile"] for device in second["devices"]]


def test_the_options_of_the_request_count(directory: Path) -> None:
    explained = json.loads(explain("sum", "--json", "--objective=cost", directory=directory).stdout)
    assert (explained["device"], explained["reason"]) == ("cpu:own", "cheapest-in-time")


def test_a_request_that_no_device_would_take_gives_status_1_and_the_reasons(directory: Path) -> None:
    done = explain("sum", "--deadline=0.001us", directory=directory)
    assert done.returncode == 1
    assert "would be refused" in done.stdout
    assert "WHY NOT" in done.stdout


def test_a_model_that_does_not_load_gives_status_1_and_the_reason(directory: Path) -> None:
    done = explain("broken", directory=directory)
    assert (done.returncode, done.stdout) == (1, "")
    assert "model 'broken' could not be loaded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "missing argument 'MODEL'; see turnout-server explain --help"),
        (["sum", "--row=2"], "no such option '--row'; did you mean '--rows'?"),
        (["sum", "--rows=0"], "'0' is not a whole number above 0"),
        (["sum", "--deadline=50"], "'50' is not a duration such as 500us, 50ms or 2s"),
        (["sum", "--load=many"], "'many' is not a rate such as 100/s"),
        (["sum", "--at=localhost"], "'localhost' is not HOST:PORT"),
        (["sum", "--at=127.0.0.1:1"], "no server answers there"),
        (["sum", "--at=127.0.0.1:1", "--cache-dir=x"], "leave out --cache-dir, or --at"),
        (["sum"], "--model-repository is required"),
    ],
)
def test_a_usage_error_gives_one_line_and_status_2(arguments: list[str], words: str) -> None:
    done = explain(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "there is no model 'nope' in"),
        (["sum", "--rows=5"], "<= 4"),
        (["sum", "--device=tpu"], "unknown device 'tpu'"),
    ],
)
def test_an_invalid_question_gives_one_line_and_status_2(directory: Path, arguments: list[str], words: str) -> None:
    done = explain(*arguments, directory=directory)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "us"), [("500us", 500), ("50ms", 50_000), ("2s", 2e6), ("0.5ms", 500)])
def test_durations_have_a_unit(text: str, us: float) -> None:
    assert duration_us(text) == us


@pytest.mark.parametrize("text", ["", "50", "ms", "-1ms", "0s", "1e3ms", "1 s", "1m", "1ms ", "9" * 400 + "s"])
def test_other_texts_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        duration_us(text)


def test_the_unit_of_a_rate_is_optional() -> None:
    assert (rate_per_s("100/s"), rate_per_s("0.5")) == (100, 0.5)
    for text in ("", "/s", "-1/s", "100/min", "inf"):
        with pytest.raises(ValueError, match="a rate such as"):
            rate_per_s(text)
