"""Checkouts measured in turns: what is asked for, and ratios within rounds."""

from pathlib import Path

import pytest

from benchmarks.checkouts import Reading, _checkout, _load, table
from benchmarks.round_steps import STEPS, per_request_us


def test_a_load_names_a_case_and_how_its_tensors_travel() -> None:
    plain, shared = _load("add_sub:4"), _load("identity+shm:8")
    assert (plain.case.name, plain.clients, plain.shared) == ("add_sub", 4, False)
    assert (shared.case.name, shared.clients, shared.shared) == ("identity", 8, True)


@pytest.mark.parametrize("text", ["", "add_sub", "add_sub:0", "add_sub:x", "unknown:1", "+shm:1"])
def test_a_load_that_cannot_be_sent_is_refused_with_the_cases(text: str) -> None:
    with pytest.raises(ValueError, match=r"give CASE:CLIENTS .* add_sub, mlp, identity"):
        _load(text)


@pytest.mark.parametrize("text", ["main", "main=/nowhere", f"={Path.cwd()}"])
def test_a_checkout_without_a_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="with server/turnout_server in it"):
        _checkout(text)


def test_flags_of_the_server_may_follow_a_checkout() -> None:
    flags = """--device='cpu={threads = 1, instances = 2}' --cache-dir=/c"""
    name, contestant = _checkout(f"each core={Path.cwd()} {flags}")
    assert name == "each core"
    assert contestant == (Path.cwd(), ["--device=cpu={threads = 1, instances = 2}", "--cache-dir=/c"])
    assert _checkout(f"plain={Path.cwd()}")[1].flags == []


def test_ratios_are_taken_within_rounds_because_rounds_differ() -> None:
    before = [Reading(100, 10, 1), Reading(400, 2, 1), Reading(200, 5, 1)]
    after = [Reading(50, 12, 1), Reading(200, 3, 1), Reading(180, 10, 1)]
    title, first, second = table("a load", {"before": before, "after": after})
    assert title == "a load"
    assert "CPU   200.0 us  ratio 1.00      5.0/s  ratio 1.00" in first
    assert "CPU   180.0 us  ratio 0.50     10.0/s  ratio 1.50" in second


def test_steps_are_counted_from_one_reading_to_the_next() -> None:
    before = {"requests": 10.0, **dict.fromkeys(STEPS, 1.0)}
    after = {"requests": 14.0, **{step: 1.0 + 4e-6 * place for place, step in enumerate(STEPS)}}
    assert list(per_request_us(before, after).values()) == pytest.approx([0, 1, 2, 3, 4], abs=1e-6)
