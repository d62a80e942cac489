"""Runs the command as a user does."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from turnout_loadtests.__main__ import cli, default_processes, exit_status, request_of, split_cores, why_nothing
from turnout_loadtests.reporting import results as files
from turnout_loadtests.reporting.results import FAILED, UNAVAILABLE, Gap

from tests.loadtests.made import Behaviour, World

SHORT = "--batch", "1", "--rounds", "2", "--window", "0.6", "--in-flight", "2"


def turnout_loadtest(*options: str, timeout_s: float = 100) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "turnout_loadtests", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_comparison_names_missing_devices_and_writes_its_report(fake: str, tmp_path: Path) -> None:
    done = turnout_loadtest("compare", "add", "--host", fake, *SHORT, "--output", str(tmp_path))
    assert done.returncode in (0, 3), done.stderr  # 3 if the machine was too busy to measure anything
    assert "add on cuda: unavailable: no such device here" in done.stdout
    assert "This takes about" in done.stdout
    assert "locust -f" in done.stdout
    made = files.read(tmp_path / "results.json")
    assert {(cell.model, cell.device, cell.batch) for cell in made.cells} == {("add", "cpu", 1)}
    assert {"report.html", "report.md", "cells.csv", "samples"} <= {path.name for path in tmp_path.iterdir()}
    assert len(list((tmp_path / "samples").glob("*.npz"))) == len(made.cells)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_report_of_what_was_measured(number: signal.Signals, fake: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "turnout_loadtests", "compare", "add", "--host", fake, "--device", "cpu"]
    options = [
        "--batch",
        "1",
        "--batch",
        "2",
        "--rounds",
        "20",
        "--window",
        "0.6",
        "--in-flight",
        "2",
        "--output",
        str(tmp_path),
    ]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s and not (tmp_path / "results.json").exists():
            time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    made = files.read(tmp_path / "results.json")
    assert made.cells
    assert not made.complete
    assert any("interrupted" in gap.reason for gap in made.gaps)
    assert (tmp_path / "report.html").exists()


def test_a_report_can_be_rendered_again(tmp_path: Path) -> None:
    files.write(World({"cpu": Behaviour()}).results(), tmp_path)
    assert turnout_loadtest("report", str(tmp_path / "results.json")).returncode == 0
    assert "resnet50" in (tmp_path / "report.html").read_text()


def test_a_threshold_that_is_breached_has_its_own_exit_status(tmp_path: Path) -> None:
    files.write(World({"cpu": Behaviour(ms=10.0)}).results(), tmp_path)
    path = str(tmp_path / "results.json")
    assert turnout_loadtest("report", path, "--fail-on", "cpu.p50_ms>50").returncode == 0
    done = turnout_loadtest("report", path, "--fail-on", "cpu.p50_ms>5")
    assert done.returncode == 4
    assert "cpu.p50_ms>5: resnet50 has" in done.stdout


def test_two_results_are_compared(tmp_path: Path) -> None:
    for name, ms in (("before", 10.0), ("after", 20.0)):
        files.write(World({"cpu": Behaviour(ms=ms)}).results(), tmp_path / name)
    before, after = (str(tmp_path / name / "results.json") for name in ("before", "after"))
    assert turnout_loadtest("diff", before, before).returncode == 0
    assert turnout_loadtest("diff", after, before).returncode == 0
    done = turnout_loadtest("diff", before, after)
    assert done.returncode == 3
    assert "worse" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("report", "nowhere.json"), 1, "turnout-loadtest: nowhere.json: not a results.json"),
        (("compare",), 2, "missing argument"),
        (("compare", "m", "--batch", "0"), 2, "invalid value for '--batch'"),
        (("compare", "m", "--slo-p99", "50"), 2, "'50' is no duration; write it as 50ms"),
        (("report", "nowhere.json", "--fail-on", "cpu.speed>1"), 2, "'speed' is none of p50_ms"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(options: tuple[str, ...], code: int, complaint: str) -> None:
    done = turnout_loadtest(*options)
    assert done.returncode == code
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "text", "complaint"),
    [
        ("--slo-p99", "0ms", "no duration"), ("--load", "100", "no rate"), ("--load", "0/s", "no rate"),
        ("--price", "cpu=1", "no price"), ("--cpu-power", "5", "no power"), ("--cpu-power", "95,20", "no power"),
        ("--fail-on", "cpu.p99_ms", "no condition"), ("--fail-on", "cpu.speed>1", "is none of"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_read_is_wrong_usage(option: str, text: str, complaint: str) -> None:
    with pytest.raises(click.UsageError, match=complaint) as error:
        cli.main(["compare", "m", option, text], standalone_mode=False)
    assert error.value.exit_code == 2
    assert option in error.value.format_message()


def test_options_have_the_values_that_were_written() -> None:
    words = ["m", "--slo-p99", "0.5s", "--load", "100/s", "--price", "cpu=0.34/h", "--cpu-power", "20,95"]
    given = cli.commands["compare"].make_context("compare", words).params
    assert (given["slo_p99"], given["loads"]) == (500.0, (100.0,))
    assert (given["prices"], given["cpu_power"], given["thresholds"]) == ((("cpu", 0.34),), (20.0, 95.0), ())


def test_what_is_named_twice_is_measured_once() -> None:
    words = ["m", "n", "m", "--load", "50/s", "--load", "10/s", "--load", "50.0/s", "--device", "cpu", "--device", "cpu"]
    models, given = ["m", "n", "m"], cli.commands["compare"].make_context("compare", words).params
    asked = request_of(tuple(models), given)
    assert (asked.models, asked.loads_per_s, asked.devices) == (("m", "n"), (50.0, 10.0), ("cpu",))


@pytest.mark.parametrize(
    ("options", "why"), [(("nosuch",), "unknown model 'nosuch'"), (("add", "--device", "cuda"), "add on cuda: no such device")]
)
def test_where_nothing_can_be_measured_the_command_fails_and_leaves_a_report(
    options: tuple[str, ...], why: str, fake: str, tmp_path: Path
) -> None:
    done = turnout_loadtest("compare", *options, "--host", fake, "--output", str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("turnout-loadtest: nothing could be measured: ")
    assert why in line
    assert (tmp_path / "report.html").exists()


def test_a_missing_server_is_one_line(closed_port: int) -> None:
    done = turnout_loadtest("compare", "m", "--host", f"127.0.0.1:{closed_port}", "--ready-timeout", "1")
    assert done.returncode == 1
    assert done.stderr.startswith("turnout-loadtest: the server wasn't ready within 1 s")


def test_the_command_never_imports_locust() -> None:
    """Importing it changes the standard library: gRPC in this process would hang, and processes die as they start."""
    probe = "import sys, turnout_loadtests.__main__; sys.exit('locust' in sys.modules or 'gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], timeout=60, check=False).returncode == 0


def test_what_is_invalid_or_failed_changes_the_exit_status_and_what_is_missing_does_not() -> None:
    def status(behaviour: Behaviour, *gaps: Gap) -> int:
        return exit_status(World({"cpu": behaviour}, gaps=gaps).results())

    assert status(Behaviour()) == 0
    assert status(Behaviour(), Gap("resnet50", "cuda", 0, UNAVAILABLE, "no driver")) == 0
    assert status(Behaviour(), Gap("resnet50", "cpu", 8, FAILED, "too large")) == 3
    assert status(Behaviour(fails_share=0.5)) == 3
    assert exit_status(World({"cpu": Behaviour()}).ledger().results(complete=False)) == 3


def test_something_was_measured_as_soon_as_one_cell_was() -> None:
    assert why_nothing(World({"cpu": Behaviour(fails_share=0.9)}, rounds=1).results()) == ""
    gap = Gap("resnet50", "cuda", 0, UNAVAILABLE, "no driver")
    assert why_nothing(World({}, gaps=[gap]).results()) == "nothing could be measured: resnet50 on cuda: no driver"
    assert why_nothing(World({}).results()).endswith("no model runs on these devices")


def test_senders_get_cores_of_their_own_where_there_are_some_to_spare() -> None:
    assert split_cores([0, 1], None) == (None, None)
    server, senders = split_cores(list(range(16)), None)
    assert (server, senders) == (set(range(12)), {12, 13, 14, 15})
    assert split_cores(list(range(16)), 1) == (set(range(14)), {14, 15})
    assert [default_processes(cores) for cores in (1, 2, 8, 64)] == [1, 1, 2, 4]
