import os
import time
from dataclasses import replace
from typing import Any

import pytest
from turnout_loadtests.measuring.machine import (
    MachineUse,
    Reading,
    between,
    parse_core_times,
    parse_cpu_s,
    parse_stalled_us,
    read,
)

STAT = """cpu  400 0 400 8000 0 0 0 80 0 0
cpu0 100 20 100 4000 9 1 2 30 0 0
cpu1 300 0 300 4000 0 0 0 50 0 0
"""


def reading(at_s: float, **changes: Any) -> Reading:
    return replace(Reading(at_s, 0.0, 0.0, 0.0, 0.0, None), **changes)


def test_only_the_cores_of_this_process_count() -> None:
    assert parse_core_times(STAT, [0]) == (2.23, 0.30)
    assert parse_core_times(STAT, [0, 1]) == (8.23, 0.80)
    assert parse_core_times(STAT, [7]) == (None, None)
    assert parse_core_times("", [0]) == (None, None)


@pytest.mark.parametrize(
    ("text", "stalled_us"),
    [("some avg10=0.00 avg60=0.22 avg300=0.22 total=5790309\nfull avg10=0.00 total=1\n", 5790309), ("", None), ("no", None)],
)
def test_cpu_pressure_is_read_from_its_total(text: str, stalled_us: int | None) -> None:
    assert parse_stalled_us(text) == stalled_us


def test_the_processor_time_of_a_process_is_read_although_its_name_has_brackets() -> None:
    fields = " ".join(["S", *["0"] * 10, "150", "50", *["0"] * 20])
    assert parse_cpu_s(f"12 (a (b) c) {fields}") == 200 / os.sysconf("SC_CLK_TCK")
    assert parse_cpu_s("") == 0.0


def test_shares_are_of_the_time_that_really_passed() -> None:
    """A reading that comes late makes the time longer, and not the shares greater."""
    end = reading(4.0, busy_s=6.0, steal_s=0.4, stalled_s=1.0, ours_s=2.0, server_s=1.0)
    assert between(reading(0.0, server_s=0.0), end, cores=2) == MachineUse(75.0, 50.0, 5.0, 25.0, 0.25)


def test_what_the_system_does_not_say_is_unknown() -> None:
    nothing = {"busy_s": None, "steal_s": None, "stalled_s": None}
    assert between(reading(0.0, **nothing), reading(1.0, **nothing), cores=2) == MachineUse()
    assert between(reading(1.0), reading(1.0), cores=2) == MachineUse()


def test_this_process_counts_as_part_of_the_test() -> None:
    before = read([], [])
    until_s = time.perf_counter() + 0.3
    while time.perf_counter() < until_s:
        pass
    assert read([], []).ours_s - before.ours_s > 0.05
