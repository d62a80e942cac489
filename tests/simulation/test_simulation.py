"""The simulator of routing: what it plays is fair and repeatable, and a short run of all of it works."""

import json
import math
import random
from pathlib import Path

import pytest

from simulation.__main__ import main
from simulation.arrivals import Arrivals, Bursty, Diurnal, Poisson, moments_s
from simulation.policies import FirstIdle, Only, ShortestQueue, Turnout
from simulation.run_all import FIRST_IDLE, OURS, POLICIES, THRESHOLD, run_all
from simulation.scenarios import SCENARIOS, Scenario, Stream
from simulation.service import CPU, GPU, GPUS, MODELS, SIZES, assumed, measured
from simulation.simulated_device import ANSWERED, Request
from simulation.simulation import Machine, play
from simulation.sweep import ENOUGH, LOADS, SWEPT, Point, carried, most, sweep

MACHINE = Machine(measured(), "large")
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("arrivals", [Poisson(), Bursty(peak=3.0, busy_s=0.5, calm_s=1.5), Diurnal(days=3, swing=0.8)])
def test_arrivals_have_the_rate_that_was_asked_for(arrivals: Arrivals) -> None:
    moments = list(moments_s(arrivals, 50.0, 400.0, random.Random("1")))

    assert len(moments) == pytest.approx(50 * 400, rel=0.05)
    assert moments == sorted(moments)
    assert moments[-1] < 400


def test_bursts_that_exceed_the_mean_are_refused() -> None:
    with pytest.raises(ValueError, match="exceed the mean"):
        list(moments_s(Bursty(peak=5.0, busy_s=1.0, calm_s=1.0), 1.0, 10.0, random.Random("1")))


def test_every_policy_is_played_the_same_requests() -> None:
    first, second = (BY_NAME["sizes"].requests(MACHINE, 200, "1") for _ in range(2))

    assert [(request.arrived_s, request.rows) for request in first] == [(request.arrived_s, request.rows) for request in second]


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_ends_once_and_is_counted(name: str) -> None:
    scenario = BY_NAME["everything"]
    machine = Machine(measured(), scenario.gpu)
    policy = POLICIES[name]("1")
    devices = machine.devices("1", policy.sharing)
    requests = scenario.requests(machine, 300, "1")

    play(requests, devices, policy)

    assert all(request.outcome for request in requests)
    assert all(request.ended_s >= request.arrived_s for request in requests)
    assert all(request.parts_left == 0 for request in requests if request.outcome == ANSWERED)
    assert not any(device.running or device.device_queue for device in devices.values())


def test_runs_take_what_the_profile_says_give_or_take_the_spread() -> None:
    truth = MACHINE.devices("1")[CPU].truths["resnet50"]
    took_us = sorted(truth.draw_s(1, random.Random(str(number))) * 1e6 for number in range(999))

    assert took_us[499] == pytest.approx(truth.profile.predict_us(1), rel=0.02)
    assert took_us[0] < 0.9 * took_us[499] < 1.1 * took_us[499] < took_us[-1]


def test_a_larger_gpu_takes_less_but_never_less_than_it_takes_to_launch() -> None:
    small, large = (assumed(GPUS[name], measured()) for name in ("small", "large"))

    for model in MODELS:
        for rows in map(str, SIZES):
            assert GPUS["large"].fixed_us[model] < large[model][rows]["service_us"] < small[model][rows]["service_us"]


def one_by_one(policy: Only | ShortestQueue | FirstIdle | Turnout, *, apart_s: float) -> set[str]:
    """The devices on which requests of one row end, so far apart."""
    requests = [Request("resnet50", 1, number * apart_s, number * apart_s + 10.0) for number in range(20)]
    play(requests, MACHINE.devices("1", policy.sharing), policy)
    return {request.device for request in requests}


@pytest.mark.parametrize("policy", [ShortestQueue(), FirstIdle(drops_late=True), Turnout()])
def test_with_nothing_else_to_do_requests_go_to_the_gpu(policy: ShortestQueue | FirstIdle | Turnout) -> None:
    assert one_by_one(policy, apart_s=1.0) == {GPU}


@pytest.mark.parametrize("policy", [ShortestQueue(), FirstIdle(drops_late=True), Turnout()])
def test_with_too_much_to_do_both_devices_work(policy: ShortestQueue | FirstIdle | Turnout) -> None:
    assert one_by_one(policy, apart_s=0.0) == {CPU, GPU}


def test_only_one_device_means_that() -> None:
    assert one_by_one(Only(CPU), apart_s=1.0) == {CPU}


def test_turnout_is_beside_the_best_where_the_load_is_light() -> None:
    light = Scenario("light", "", (Stream("resnet50", 0.2, 300),))
    in_time = {row.policy: row.in_time for row in run_all(light, measured(), 400, "1")}

    assert in_time[OURS] >= 0.99 * max(in_time.values())
    assert in_time.keys() == POLICIES.keys() | {THRESHOLD}


def test_a_scenario_at_another_load_has_more_of_every_stream() -> None:
    everything = BY_NAME["everything"]
    doubled = everything.at(2 * everything.load)

    assert doubled.load == pytest.approx(2 * everything.load)
    assert [stream.load for stream in doubled.streams] == pytest.approx([2 * stream.load for stream in everything.streams])


def points(*in_time: float) -> list[Point]:
    return [Point("", "", load, share) for load, share in zip(LOADS, in_time, strict=False)]


@pytest.mark.parametrize(
    ("in_time", "load"),
    [
        ((1.0, 1.0, 0.90), 0.5),
        ((1.0, 0.95, 0.90, 0.99), 0.4),  # where it first has too few
        ((0.9, 1.0), 0.2),  # a bound
        ((1.0, 1.0, 0.96), 0.6),  # a bound
    ],
)
def test_the_load_carried_is_that_up_to_which_enough_is_in_time(in_time: tuple[float, ...], load: float) -> None:
    assert carried(points(*in_time)) == pytest.approx(load)


@pytest.mark.parametrize("name", ["both needed", "slow CPU"])
def test_nobody_carries_more_than_anybody_can(name: str) -> None:
    scenario = BY_NAME[name]
    limit = most(scenario, measured())

    assert 0.9 < limit < 1.1
    beyond = scenario.at(1.1 * limit)
    assert max(row.in_time for row in run_all(beyond, measured(), 2000, "1")) < ENOUGH
    assert most(BY_NAME["sizes"], measured()) == math.inf


def test_a_sweep_is_closer_where_a_policy_ceases_to_carry_the_load() -> None:
    found = list(sweep(Scenario("light", "", (Stream("resnet50", 0.2, 150),)), measured(), 100, "1"))

    assert {point.policy for point in found} == set(SWEPT)
    for policy in SWEPT:
        line = [point for point in found if point.policy == policy]
        assert {point.load for point in line} >= set(LOADS)
        assert line == sorted(line, key=lambda point: point.load)
        if min(point.in_time for point in line) < ENOUGH <= line[0].in_time:
            nearest = min(abs(point.load - carried(line)) for point in line)
            assert nearest <= (LOADS[1] - LOADS[0]) / 8 + 1e-9


@pytest.mark.parametrize("considerate", [True, False])
def test_long_requests_stay_off_the_cpu_while_many_short_ones_in_a_hurry_come_there(considerate: bool) -> None:
    short = [Request("mlp", 16, 0.0025 * number, 0.0025 * number + 0.01) for number in range(800)]
    long = [Request("resnet50", 1, 1.0 + 0.012 * number, 1.1 + 0.012 * number) for number in range(80)]
    requests = sorted([*short, *long], key=lambda request: request.arrived_s)

    play(requests, Machine(measured(), "small").devices("1"), Turnout(considerate=considerate))

    kept = all(request.in_time for request in short)
    assert kept is considerate
    assert {request.device for request in long if request.in_time} == ({GPU} if considerate else {CPU, GPU})


def test_a_quick_run_writes_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--requests", "150", "--output", str(tmp_path)])

    page = (tmp_path / "routing.md").read_text()
    assert capsys.readouterr().out == page + "\n"
    assert "The GPU is an assumption" in page
    assert all(f"## {scenario.name}\n" in page for scenario in SCENARIOS)
    rows = json.loads((tmp_path / "routing.json").read_text())["rows"]
    assert len(rows) == len(SCENARIOS) * (len(POLICIES) + 1)
    assert all(0 <= row["in_time"] <= 1 for row in rows)
    assert FIRST_IDLE in (tmp_path / "routing.svg").read_text()
    assert FIRST_IDLE in (tmp_path / "routing-loads.svg").read_text()
    assert "## Load carried with 95 % in time" in page


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (list(run_all(BY_NAME["deadlines"], measured(), 150, "7")) for _ in range(2))

    assert first == second
