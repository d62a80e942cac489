"""What a device that kept no rate is known to carry; its SingleStream says whether it keeps the target at low load."""

from dataclasses import replace

import pytest
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.ladder import carried, misses_at_low_load
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.sending.load import OPEN, SINGLE_STREAM

from tests.loadtests.made import Behaviour, World, cell


def alone(ms: float, **behaviour: object) -> Summary:
    """The SingleStream of a device that takes so long for one request."""
    made = World({"cpu": Behaviour(ms=ms, **behaviour)}, rounds=3, window_s=max(2.0, 0.04 * ms)).results()  # type: ignore[arg-type]
    return next(each for each in made.summaries if each.key.scenario == SINGLE_STREAM)


def missed(beyond_per_s: float, per_s: float | None = None, target_ms: float = 250.0) -> Capacity:
    return Capacity("resnet50", "cpu", 1, target_ms, per_s, beyond_per_s, 9, "missed")


@pytest.mark.parametrize(
    ("ms", "beyond_per_s", "misses"),
    [
        (12.0, 150.0, False),  # more than it can answer at all, and 12 ms keep the target
        (200.0, 4.2, False),  # a search whose trials can't be longer starts at 84 % of what it carries
        (200.0, 0.04, True),  # one request in 25 s has no queue
        (400.0, 2.0, True),  # one request at a time misses it
    ],
)
def test_a_device_misses_at_low_load_only_if_the_load_was_low_or_one_request_misses(
    ms: float, beyond_per_s: float, misses: bool
) -> None:
    assert misses_at_low_load(missed(beyond_per_s), alone(ms)) is misses


def test_one_request_that_the_senders_may_have_made_late_decides_nothing() -> None:
    single = alone(300.0)
    assert misses_at_low_load(missed(9.0), single)
    for unsure in (replace(single, headroom=1.5), replace(single, headroom=None), replace(single, state=INVALID), None):
        assert not misses_at_low_load(missed(9.0), unsure)


def test_loads_that_were_all_missed_leave_a_bound_and_no_number() -> None:
    loads = [
        cell(Behaviour(ms=2000.0, scatter=0.1), arrival=OPEN, rate_per_s=rate, in_flight=5000, duration_s=6.0)
        for rate in (150.0, 600.0)
    ]
    found = carried(loads, [], "resnet50", "cpu", 250.0, alone(12.0))
    assert found is not None
    assert (found.per_s, found.beyond_per_s) == (None, 150.0)
    slow = carried(loads, [], "resnet50", "cpu", 250.0, alone(2000.0))
    assert slow is not None
    assert slow.per_s == 0.0


def test_the_zero_of_an_older_turnout_is_read_by_its_single_stream() -> None:
    """It stood wherever no rate was kept."""
    for ms, per_s in ((12.0, None), (400.0, 0.0)):
        found = carried([], [missed(150.0, per_s=0.0)], "resnet50", "cpu", 250.0, alone(ms))
        assert found is not None
        assert found.per_s == per_s
