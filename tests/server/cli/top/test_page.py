"""The page of `turnout-server top`."""

from typing import Any

import pytest
from turnout_server.cli.top.page import as_text
from turnout_server.cli.top.rates import rates_of

from tests.server.cli.top.statuses import device, entry, model, status


def shown(*models: dict[str, Any], **other: Any) -> list[str]:
    return as_text(status(10, *models, **other), rates_of(status(0), status(10, *models, **other))).splitlines()


def row(lines: list[str], *starts: str) -> list[str]:
    """The words of the only line that begins with these."""
    (found,) = [line.split() for line in lines if line.split()[: len(starts)] == list(starts)]
    return found


def test_a_device_has_its_use_queue_and_rate() -> None:
    lines = shown(model(entry(counts=(20, 0, 0, 0), busy_s=5.0)), devices=(device(waiting=3, running=1, restarts=2),))
    assert row(lines, "cpu") == ["cpu", "working", "50%", "3", "1", "2.0", "2"]


def test_a_device_that_is_down_says_why() -> None:
    lines = shown(devices=(device("cuda:0", up=False, reason="its process is being restarted"),))
    assert row(lines, "cuda:0")[1] == "down"
    assert "  cuda:0: its process is being restarted" in lines


def test_a_model_has_its_latency_and_failures_on_each_device() -> None:
    lines = shown(
        model(
            entry(counts=(0, 10, 0, 0), waiting=2, running=1, failures={"INTERNAL": 1, "CANCELLED": 2}),
            entry("cuda:0", counts=(0, 0, 0, 0), routes={}),
        )
    )
    assert row(lines, "m", "1", "cpu", "fp32") == [
        "m",
        "1",
        "cpu",
        "fp32",
        "ready",
        "1.0",
        "5.50",
        "9.91",
        "1.0",
        "2",
        "1",
        "3",
    ]
    assert row(lines, "m", "1", "cuda:0") == ["m", "1", "cuda:0", "fp32", "ready", "0.0", "-", "-", "-", "0", "0", "0"]
    assert row(lines, "m", "1", "cpu", "requested") == ["m", "1", "cpu", "requested", "10"]


def test_requests_that_failed_before_they_had_a_device_are_shown() -> None:
    lines = shown(model(entry(), failures={"INVALID_ARGUMENT": 7}))
    assert row(lines, "m", "1", "none")[-1] == "7"


def test_a_model_that_failed_to_load_says_why() -> None:
    lines = shown(model(name="broken", state="UNAVAILABLE", reason="it is no ONNX file, " * 20))
    assert row(lines, "broken", "1")[2:4] == ["none", "unavailable"]
    assert any(line.startswith("  broken 1: it is no ONNX file") for line in lines)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({}, "ready"),
        ({"ready": False}, "not ready"),
        ({"ready": False, "settled": False}, "loading models"),
        ({"ready": False, "draining": True}, "stopping"),
    ],
)
def test_the_first_line_says_whether_the_server_is_ready(facts: dict[str, Any], word: str) -> None:
    assert as_text(status(10, **facts), {}).startswith(f"box  {word}  Turnout 1.2")


def test_a_name_cannot_move_the_cursor() -> None:
    assert "\x1b" not in "\n".join(shown(model(entry(), name="\x1b[2Jm")))
