"""The head of a report."""

import sys

import pytest

from benchmarks.results import PACKAGES, about


def test_a_report_says_where_and_by_which_command_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py", "--rounds", "3"])

    found = about("benchmarks.devices")

    assert found.keys() == {"processor", "memory", "system", "versions", "load average before", "command", "date"}
    assert found["command"] == "python -m benchmarks.devices --rounds 3"
    assert {"turnout", "grpcio", "numpy"} <= {version.split()[0] for version in found["versions"].split(", ")} <= set(PACKAGES)
