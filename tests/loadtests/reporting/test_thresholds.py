from dataclasses import replace

import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.reporting.results import Results
from turnout_loadtests.reporting.thresholds import breached, parse_threshold

from tests.loadtests.made import Behaviour, World

MADE = World(
    {"cpu": Behaviour(ms=10.0), "cuda:0": Behaviour(ms=2.0), "broken": Behaviour(fails_share=0.6)},
    loads_per_s=(50.0,),
    capacities=[Capacity("resnet50", "cpu", 1, 50.0, 80.0, 84.0, 9)],
).results()
P99 = parse_threshold("cpu.p99_ms>50")


@pytest.mark.parametrize(
    ("text", "breaches"),
    [
        ("cpu.p50_ms>50", 0), ("cpu.p50_ms>5", 1), ("cuda:0.p50_ms>=1", 1), ("cpu.rows_per_s<100", 0),
        ("cpu.rows_per_s<1000", 1),
        ("resnet50/cpu.p90_ms > 5", 1), ("cpu.capacity_per_s<80", 0), ("cpu.capacity_per_s<81", 1),
        ("cuda:0.failures_percent>0", 0),
        ("broken.failures_percent>50", 1),
    ],
)  # fmt: skip
def test_a_condition_that_holds_is_a_breach(text: str, breaches: int) -> None:
    assert len(breached(MADE, [parse_threshold(text)])) == breaches


@pytest.mark.parametrize("text", ["broken.p50_ms>5", "cuda.p50_ms>5", "other/cpu.p50_ms>5", "cuda:0.capacity_per_s<5"])
def test_a_condition_without_a_valid_number_is_a_breach_too(text: str) -> None:
    """A check that can't be made must not pass in silence."""
    (line,) = breached(MADE, [parse_threshold(text)])
    assert "has no valid" in line


def without(results: Results, rate_per_s: float) -> Results:
    """The results where what was measured at this rate isn't valid; 0 is every closed load."""
    judged = [replace(each, state=INVALID) if each.key.rate_per_s == rate_per_s else each for each in results.summaries]
    return replace(results, summaries=judged)


LOADS = World({"cpu": Behaviour(ms=5.0)}, rounds=2, loads_per_s=(500.0, 100.0)).results()


@pytest.mark.parametrize("condition", ["cpu.p99_ms>50", "cpu.p50_ms<1"])
def test_a_percentile_is_that_of_the_first_load_asked_for_and_of_no_other(condition: str) -> None:
    """Neither another load nor one request at a time stands in for it."""
    limit = parse_threshold(condition)
    assert breached(LOADS, [limit]) == []
    assert breached(without(LOADS, 100.0), [limit]) == []
    assert breached(without(LOADS, 0.0), [limit]) == []
    (line,) = breached(without(LOADS, 500.0), [limit])
    assert "has no valid" in line


def test_a_load_that_was_not_reached_leaves_the_condition_unchecked() -> None:
    (line,) = breached(replace(World({"cpu": Behaviour(ms=5.0)}, rounds=2).results(), loads_per_s=[500.0]), [P99])
    assert "has no valid p99_ms" in line


def test_without_a_load_a_percentile_is_of_one_request_at_a_time() -> None:
    alone = World({"cpu": Behaviour(ms=5.0)}, rounds=2).results()
    assert breached(alone, [P99]) == []
    assert len(breached(without(alone, 0.0), [P99])) == 1


@pytest.mark.parametrize("text", ["", "cpu", "cpu.p50_ms", "cpu.p50_ms=5", "cpu.p50_ms>x", "p50_ms>5"])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LoadTestError, match=r"is no condition such as 'cuda\.p99_ms>50'"):
        parse_threshold(text)
