"""The summary of an open load on two devices, and the report of what was measured."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from turnout_loadtests.open_loop import Outcome

from benchmarks.devices import report
from benchmarks.devices.report import Kill, Report
from benchmarks.devices.summary import Summary, median, summarise

A, B = "cpu:a", "cpu:b"
TARGET_S = 1.0


def answer(due_s: float, latency_s: float, device: str = A, source: str = "auto") -> Outcome:
    return Outcome(source, due_s, latency_s, "OK", device, "earliest", predicted_us=150, actual_us=100)


def failure(due_s: float, code: str, source: str = "auto") -> Outcome:
    return Outcome(source, due_s, 0.1, code)


def test_goodput_counts_answers_in_time_that_end_between_the_first_target_and_the_end_of_the_load() -> None:
    early, late, after, good = answer(0.1, 0.2), answer(3.0, 1.5), answer(4.9, 0.2), answer(2.0, 0.5)

    assert summarise([early, late, after, good], 5.0, TARGET_S, B).goodput == pytest.approx(1 / (5.0 - TARGET_S))


def test_failures_are_shares_of_all_requests_and_leave_the_latencies_of_answers_alone() -> None:
    failures = [failure(1.0, code) for code in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "UNAVAILABLE")]
    answers = [answer(1.0, 0.1), answer(1.1, 0.2, B), answer(1.2, 0.3), answer(1.3, 0.4)]

    found = summarise([*failures, *answers], 2.0, TARGET_S, B)

    assert (found.load, found.share_b) == (4.0, 0.25)
    assert (found.refused, found.expired, found.failed) == (0.125, 0.125, 0.25)
    assert (found.p50_ms, found.p99_ms, found.sent_p99_ms) == (200.0, 400.0, inf)
    assert found.error == pytest.approx(0.5)


def test_a_load_without_answers_has_a_summary() -> None:
    found = summarise([failure(1.0, "UNAVAILABLE")], 2.0, TARGET_S, B)

    assert (found.goodput, found.p50_ms, found.share_b, found.error, found.failed) == (0.0, 0.0, 0.0, 0.0, 1.0)


def summary(goodput: float) -> Summary:
    return replace(summarise([answer(1.0, 0.1)], 5.0, TARGET_S, B), goodput=goodput, load=100 - goodput)


def test_the_median_of_rounds_is_of_each_field_by_itself() -> None:
    rounds = [summary(goodput) for goodput in (20.0, 10.0, 50.0)]
    rounds[1] = replace(rounds[1], share_b=1.0)

    assert median(rounds) == rounds[0]


def test_a_report_has_every_round_and_outcome_and_the_phases_of_a_kill(tmp_path: Path) -> None:
    outcomes = [answer(0.5, 0.1, B), answer(0.95, 0.2), failure(1.5, "UNAVAILABLE", B), answer(2.5, 0.1, B)]
    made = Report({"command": "python -m benchmarks.devices"}, A, B, [[20.0, 18.0, 36.0]], "encoder", 10)
    made.rounds = {(A, 34.0): [summary(20.0)], (B, 34.0): [summary(16.0)], ("auto", 34.0): [summary(30.0)]}
    made.kills = [Kill(10.0, 8.0, 1.0, 3.0, outcomes)]

    report.write(tmp_path, made)

    page = (tmp_path / "devices.md").read_text()
    assert "- command: python -m benchmarks.devices" in page
    assert "The goodput of `auto` is **1.50 times** that of the better device" in page
    assert "SIGKILL after 1.0 s; 8 requests/s name `cpu:b`. It answered again 1.5 s later." in page
    assert "| auto | in flight at the kill | 1 | 1 | 0 | none |" in page
    assert "| cpu:b | while it restarts | 1 | 0 | 0 | 1 UNAVAILABLE |" in page
    data = json.loads((tmp_path / "devices.json").read_text())
    assert [load["device"] for load in data["loads"]] == [A, B, "auto"]
    assert data["kills"][0]["answers"] == [list(each) for each in outcomes]
    assert (tmp_path / "devices.png").exists()
