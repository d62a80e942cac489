"""Agreement with another tool; the other tool's figures are made up."""

from pathlib import Path

import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.sending.load import Load
from turnout_loadtests.verify import Measured, agreement, perf_analyzer, read_perf_analyzer, verify

from tests.loadtests.made import load

LOAD = load(in_flight=2)


@pytest.mark.parametrize(
    ("ours", "theirs", "verified"),
    [
        ([(40.0, 50.0)], [(42.0, 48.0)], True),
        ([(40.0, 50.0)], [(46.0, 43.0)], False),
        ([(40.0, 50.0)], [(40.0, 60.0)], False),
        ([(40.0, 50.0), (41.0, 49.0), (80.0, 25.0)], [(40.0, 50.0)], True),  # the median of the rounds counts
    ],
)
def test_both_tools_agree_within_a_tenth(
    ours: list[tuple[float, float]], theirs: list[tuple[float, float]], verified: bool
) -> None:
    found = agreement(LOAD, [Measured(*each) for each in ours], [Measured(*each) for each in theirs])
    assert found.verified is verified
    assert found.text.startswith("verified: " if verified else "not verified: ")


def test_a_tool_without_a_stable_measurement_verifies_nothing() -> None:
    found = agreement(LOAD, [Measured(40.0, 50.0)] * 3, [None, None, None])
    assert not found.verified
    assert "had no stable measurement in 3 rounds" in found.text
    assert agreement(LOAD, [Measured(40.0, 50.0)] * 3, [None, Measured(40.0, 50.0), None]).verified


def test_the_other_tools_file_is_read() -> None:
    text = "Concurrency,Inferences/Second,Client Send,p50 latency\n2,41.5,10,48200\n"
    assert read_perf_analyzer(text) == Measured(41.5, 48.2)


def test_a_missing_tool_is_named() -> None:
    with pytest.raises(LoadTestError, match=r"make \.venv-perf"):
        perf_analyzer("/nowhere/perf_analyzer")


def test_one_load_is_measured_in_turns_by_both(fake: str, tmp_path: Path) -> None:
    seen: list[Load] = []

    def other(load: Load) -> Measured:
        seen.append(load)
        return Measured(4.0, 500.0)

    found = verify(fake, "add", "slow", "", other, rounds=2)
    assert len(seen) == 2
    assert "add on slow, batch 1, 2 requests in flight: " in found.text
    rate = float(found.text.split("in flight: ")[1].split()[0])
    assert 2.5 < rate < 4.4  # two requests in flight of half a second each, on a machine that may be busy
