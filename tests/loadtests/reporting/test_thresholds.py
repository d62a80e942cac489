import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.reporting.thresholds import breached, parse_threshold

from tests.loadtests.made import Behaviour, World

MADE = World(
    {"cpu": Behaviour(ms=10.0), "cuda:0": Behaviour(ms=2.0), "broken": Behaviour(fails_share=0.6)},
    loads_per_s=(50.0,),
    capacities=[Capacity("resnet50", "cpu", 1, 50.0, 80.0, 84.0, 9)],
).results()


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


@pytest.mark.parametrize("text", ["", "cpu", "cpu.p50_ms", "cpu.p50_ms=5", "cpu.p50_ms>x", "p50_ms>5"])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LoadTestError, match=r"is no condition such as 'cuda\.p99_ms>50'"):
        parse_threshold(text)
