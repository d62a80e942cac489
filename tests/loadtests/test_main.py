"""Runs the command as a user does."""

import subprocess
import sys
from pathlib import Path

import pytest
from turnout_loadtests import results as files

from tests.loadtests.made import cell, results


def turnout_loadtest(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "turnout_loadtests", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_comparison_names_missing_devices_and_writes_its_report(fake: str, tmp_path: Path) -> None:
    done = turnout_loadtest(
        "compare", "add", "--host", fake, "--batch", "1", "--duration", "1", "--warm-up", "1", "--output", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cuda: not available: no NVIDIA driver on this machine") == 1
    assert "load test 1/1: add on cpu, batch 1" in done.stdout
    assert "add: CUDA not available: CPU half only" in done.stdout
    made = files.read(tmp_path / "results.json")
    assert [(cell.model, cell.device, cell.batch) for cell in made.cells] == [("add", "cpu", 1)]
    assert {"report.html", "report.md", "cells.csv", "samples"} <= {path.name for path in tmp_path.iterdir()}


def test_a_report_can_be_rendered_again(tmp_path: Path) -> None:
    files.write(results(cell()), tmp_path)
    assert turnout_loadtest("report", str(tmp_path / "results.json")).returncode == 0
    assert "resnet50" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("report", "nowhere.json"), 1, "turnout-loadtest: nowhere.json: not a results.json"),
        (("compare",), 2, "missing argument"),
        (("compare", "m", "--batch", "0"), 2, "invalid value for '--batch'"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(options: tuple[str, ...], code: int, complaint: str) -> None:
    done = turnout_loadtest(*options)
    assert done.returncode == code
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_server_is_one_line(closed_port: int) -> None:
    done = turnout_loadtest("compare", "m", "--host", f"127.0.0.1:{closed_port}")
    assert done.returncode == 1
    assert done.stderr.startswith("turnout-loadtest: asking the server failed with UNAVAILABLE")


def test_the_command_never_imports_locust() -> None:
    probe = "import sys, turnout_loadtests.__main__; sys.exit('locust' in sys.modules or 'gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], timeout=60, check=False).returncode == 0
