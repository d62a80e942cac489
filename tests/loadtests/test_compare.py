"""Whole comparisons of devices whose latency is known, against servers that misbehave in known ways."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from turnout_loadtests import compare
from turnout_loadtests.compare import Options, Progress, Run
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.comparisons import BETTER, UNDECIDED, WORSE, by_latency, by_tail, by_throughput
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.measuring import machine
from turnout_loadtests.measuring.server import attached
from turnout_loadtests.plan import PROFILES, Request
from turnout_loadtests.reporting.results import FAILED, NOT_REACHED, UNAVAILABLE, Results
from turnout_loadtests.sending.load import OFFLINE, SINGLE_STREAM

from tests.loadtests.conftest import Devices, Fake, serving
from tests.loadtests.made import QUIET

pytestmark = pytest.mark.slow  # each is a whole comparison, with rounds of several seconds

SHORT = replace(PROFILES["quick"], rounds=3, window_s=0.8, warm_up_s=0.2, probe_s=0.3, longest_s=2.0, batches=(1,))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Whatever else this machine does while the tests run, the comparisons see a quiet one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "between", lambda before, after, cores: QUIET)
        patch.setattr(compare, "FLOOR_S", 0.5)
        yield


def run(address: str, *devices: str, progress: Progress = Progress(), **changes: Any) -> tuple[Results, bool]:  # noqa: B008
    """A comparison, and whether it came to its end."""
    request = Request(**{"models": ("add",), "devices": devices, "profile": SHORT, "timeout_s": 5.0, "in_flight": 2, **changes})
    comparison = Run(request, Options("turnout-loadtest compare"), attached(address, ""), progress)
    complete = comparison.measure()
    return comparison.results(complete=complete), complete


KNOWN: Devices = {
    "cpu": {"ms": 12, "instances": 1},
    "cpu:twin": {"ms": 12, "instances": 1},
    "tailed": {"ms": 3, "slow_share": 0.03, "slow_ms": 400, "instances": 1},
}


@pytest.fixture(scope="module")
def known(quiet: None) -> Iterator[Results]:
    with serving(KNOWN) as server:
        yield run(server.address, *KNOWN, profile=replace(SHORT, window_s=2.0, rounds=4))[0]


def summary(results: Results, device: str, scenario: str) -> Summary:
    return next(each for each in results.summaries if (each.key.device, each.key.scenario) == (device, scenario))


@pytest.mark.timeout(240)
def test_equal_devices_are_not_told_apart(known: Results) -> None:
    for scenario, quantity in ((OFFLINE, by_throughput), (SINGLE_STREAM, by_latency), (SINGLE_STREAM, by_tail)):
        one, other = summary(known, "cpu", scenario), summary(known, "cpu:twin", scenario)
        assert quantity(one, other).outcome not in (BETTER, WORSE)


def test_devices_that_refuse_or_lie_win_nothing(serve: Callable[[Devices], Fake]) -> None:
    """Both answer ten times as fast as the third."""
    server = serve({"cpu": {"ms": 10}, "refusing": {"ms": 1, "fails_share": 0.51}, "lying": {"ms": 1, "answers_as": "cpu"}})
    results, _ = run(server.address, "cpu", "refusing", "lying", profile=replace(SHORT, rounds=2))
    for device, reason in (("refusing", "requests failed: RESOURCE_EXHAUSTED"), ("lying", "asked for lying, answered")):
        for scenario in (OFFLINE, SINGLE_STREAM):
            assert summary(results, device, scenario).state == INVALID
            assert reason in summary(results, device, scenario).reasons[0]
        assert f"{device} has no valid measurement" in results.verdicts[0].sentence
    assert not any(each.decided for each in results.comparisons)


@pytest.mark.timeout(240)
def test_a_worse_tail_is_said_beside_a_better_median(known: Results) -> None:
    one, other = summary(known, "tailed", SINGLE_STREAM), summary(known, "cpu", SINGLE_STREAM)
    assert (one.latency.p50_ms or 0) < (other.latency.p50_ms or 0)
    assert (one.latency.max_ms or 0) > 390
    assert by_latency(one, other).outcome in (BETTER, UNDECIDED)  # undecided where the machine is busy
    assert by_tail(one, other).outcome in (WORSE, UNDECIDED)
    assert by_tail(other, one).outcome in (BETTER, UNDECIDED)


def test_the_best_of_several_cpus_is_the_one_that_is_compared(serve: Callable[[Devices], Fake]) -> None:
    devices = {
        "cpu:slow": {"ms": 90, "instances": 1},
        "cpu:fast": {"ms": 30, "instances": 1},
        "cuda": {"ms": 30, "instances": 1},
    }
    results, _ = run(serve(devices).address, *devices)
    compared = {(each.first, each.second) for each in results.comparisons}
    assert compared <= {("cuda", "cpu:fast"), ("cpu:fast", "cuda")}
    assert not any(each.decided and each.outcome in (BETTER, WORSE) for each in results.comparisons)


def test_two_devices_that_the_client_limits_are_undecided(serve: Callable[[Devices], Fake]) -> None:
    results, _ = run(serve({"cpu": {"ms": 0}, "cuda": {"ms": 0}}).address, "cpu", "cuda")
    assert {each.outcome for each in results.comparisons} == {"undecided"}
    assert "enough" not in results.verdicts[0].sentence


def test_a_row_longer_than_its_window_has_no_verdict(serve: Callable[[Devices], Fake]) -> None:
    profile = replace(SHORT, rounds=2, window_s=0.6, longest_s=0.6)
    results, _ = run(serve({"cpu": {"ms": 900}}).address, "cpu", profile=profile)
    assert {each.state for each in results.summaries} == {INVALID}
    assert "measure for longer" in results.cells[0].reasons[0]


def test_a_server_that_dies_leaves_what_was_measured_and_names_the_rest(serve: Callable[[Devices], Fake]) -> None:
    seen: list[Results] = []
    server = serve({"cpu": {"ms": 5, "dies_after": 300}, "cuda": {"ms": 5}})
    results, complete = run(server.address, "cpu", "cuda", models=("add", "other"), progress=Progress(written=seen.append))
    assert not complete
    assert results.cells
    left = [gap for gap in results.gaps if gap.kind == NOT_REACHED]
    assert {gap.model for gap in left} == {"add", "other"}
    assert any("of 3 rounds; the server died" in gap.reason for gap in left)
    assert all("the server died" in gap.reason for gap in left)
    assert len(seen) >= len(results.cells)  # written after every cell
    assert not any(cell.requests_per_s for cell in results.cells if cell.state == INVALID and cell.failures > cell.answers)


def test_one_impossible_batch_device_or_model_leaves_the_rest(serve: Callable[[Devices], Fake]) -> None:
    server = serve({"cpu": {"ms": 5, "max_batch": 4}})
    results, complete = run(server.address, "cpu", "cuda", models=("add", "nope"), batches=(1, 8))
    assert complete
    assert {(each.key.batch, each.state != INVALID) for each in results.summaries} == {(1, True)}
    gaps = {(gap.model, gap.device, gap.batch): (gap.kind, gap.reason) for gap in results.gaps}
    assert gaps["add", "cpu", 8] == (FAILED, "INVALID_ARGUMENT: batch size 8 is above the limit of 4")
    assert gaps["add", "cuda", 0] == (UNAVAILABLE, "no such device here")
    assert gaps["nope", "", 0][0] == FAILED
    assert "unknown model 'nope'" in gaps["nope", "", 0][1]


def test_the_capacity_within_a_target_is_found(serve: Callable[[Devices], Fake]) -> None:
    profile = replace(SHORT, searches=True, trial_s=1.0, longest_trial_s=8.0)
    server = serve({"cpu": {"ms": 4, "instances": 1}})
    results, _ = run(server.address, "cpu", profile=profile, target_ms=300.0)
    (capacity,) = results.capacities
    assert capacity.per_s is not None
    assert 60 < capacity.per_s < 250  # one instance of 4 ms answers less than 250/s


def test_a_load_that_was_asked_for_is_measured_on_each_device(serve: Callable[[Devices], Fake]) -> None:
    server = serve({"cpu": {"ms": 5}, "cuda": {"ms": 5}})
    results, _ = run(server.address, "cpu", "cuda", loads_per_s=(50.0,), target_ms=100.0)
    served = [each for each in results.summaries if each.key.scenario == "Server"]
    assert {each.key.device for each in served} == {"cpu", "cuda"}
    for each in served:
        assert each.goodput_per_s == pytest.approx(50, rel=0.25)
