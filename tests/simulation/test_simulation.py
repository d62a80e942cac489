"""The simulation of routing is fair and repeatable, and a short run of all scenarios writes its report."""

import json
import math
import random
from pathlib import Path

import pytest

from simulation.__main__ import main
from simulation.arrivals import Arrivals, Bursty, Diurnal, Poisson, moments_s
from simulation.policies import FirstIdle, Only, ShortestQueue, Turnout
from simulation.run_all import FIRST_IDLE, OURS, POLICIES, THRESHOLD, run, run_all
from simulation.scenarios import SCENARIOS, Scenario, Stream
from simulation.service import CPU, GPU, GPUS, MODELS, SIZES, assumed, cpu_profiles
from simulation.simulated_device import ANSWERED, Request
from simulation.simulation import Machine, simulate
from simulation.sweep import CARRIED_SHARE, LOADS, SWEPT, Point, carried_load, sweep, upper_bound

CPU_PROFILES = cpu_profiles()
MACHINE = Machine(CPU_PROFILES, "large")
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("arrivals", [Poisson(), Bursty(peak=3.0, busy_s=0.5, calm_s=1.5), Diurnal(days=3, swing=0.8)])
def test_arrivals_have_the_given_mean_rate(arrivals: Arrivals) -> None:
    moments = list(moments_s(arrivals, 50.0, 400.0, random.Random("1")))

    assert len(moments) == pytest.approx(50 * 400, rel=0.05)
    assert moments == sorted(moments)
    assert moments[-1] < 400


def test_bursts_that_exceed_the_mean_are_refused() -> None:
    with pytest.raises(ValueError, match="exceed the mean"):
        list(moments_s(Bursty(peak=5.0, busy_s=1.0, calm_s=1.0), 1.0, 10.0, random.Random("1")))


def test_every_policy_gets_the_same_requests() -> None:
    first, second = (BY_NAME["sizes"].requests(MACHINE, 200, "1") for _ in range(2))

    assert [(request.arrived_s, request.rows) for request in first] == [(request.arrived_s, request.rows) for request in second]


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_ends_once_and_is_counted(name: str) -> None:
    scenario = BY_NAME["everything"]
    machine = Machine(CPU_PROFILES, scenario.gpu)
    policy = POLICIES[name]("1")
    devices = machine.devices("1", policy.sharing)
    requests = scenario.requests(machine, 300, "1")

    simulate(requests, devices, policy)

    assert all(request.outcome for request in requests)
    assert all(request.ended_s >= request.arrived_s for request in requests)
    assert all(request.chunks_left == 0 for request in requests if request.outcome == ANSWERED)
    assert not any(device.running or device.device_queue for device in devices.values())


def test_service_times_vary_around_the_profile() -> None:
    service_time = MACHINE.devices("1")[CPU].service_times["resnet50"]
    took_us = sorted(service_time.draw_s(1, random.Random(str(number))) * 1e6 for number in range(999))

    assert took_us[499] == pytest.approx(service_time.profile.predict_us(1), rel=0.02)
    assert took_us[0] < 0.9 * took_us[499] < 1.1 * took_us[499] < took_us[-1]


def test_a_larger_gpu_is_faster_but_never_faster_than_its_fixed_time() -> None:
    small, large = (assumed(GPUS[name], CPU_PROFILES) for name in ("small", "large"))

    for model in MODELS:
        for rows in map(str, SIZES):
            assert GPUS["large"].fixed_us[model] < large[model][rows]["service_us"] < small[model][rows]["service_us"]


def one_by_one(policy: Only | ShortestQueue | FirstIdle | Turnout, *, apart_s: float) -> set[str]:
    """The devices that run requests of one row that arrive `apart_s` after each other."""
    requests = [Request("resnet50", 1, number * apart_s, number * apart_s + 10.0) for number in range(20)]
    simulate(requests, MACHINE.devices("1", policy.sharing), policy)
    return {request.device for request in requests}


@pytest.mark.parametrize("policy", [ShortestQueue(), FirstIdle(drops_late=True), Turnout()])
def test_on_an_idle_machine_requests_go_to_the_gpu(policy: ShortestQueue | FirstIdle | Turnout) -> None:
    assert one_by_one(policy, apart_s=1.0) == {GPU}


@pytest.mark.parametrize("policy", [ShortestQueue(), FirstIdle(drops_late=True), Turnout()])
def test_on_an_overloaded_machine_both_devices_are_used(policy: ShortestQueue | FirstIdle | Turnout) -> None:
    assert one_by_one(policy, apart_s=0.0) == {CPU, GPU}


def test_the_policy_of_one_device_uses_no_other() -> None:
    assert one_by_one(Only(CPU), apart_s=1.0) == {CPU}


def test_under_a_light_load_turnout_is_as_good_as_the_best_policy() -> None:
    light = Scenario("light", "", (Stream("resnet50", 0.2, 300),))
    in_time = {row.policy: row.in_time for row in run_all(light, CPU_PROFILES, 400, "1")}

    assert in_time[OURS] >= 0.99 * max(in_time.values())
    assert in_time.keys() == POLICIES.keys() | {THRESHOLD}


@pytest.mark.parametrize("deadline_ms", [200, 1000])
def test_89_at_ten_times_its_capacity_a_machine_still_answers_as_much_as_it_can(deadline_ms: float) -> None:
    over = Scenario("over", "", (Stream("resnet50", 10.0, deadline_ms),))
    result = run(over, MACHINE, OURS, 10_000, "1")

    assert 10.0 * result.in_time > 0.95
    assert result.late + result.expired < 0.01  # the rest is refused as soon as it arrives
    assert result.p99_ms < 1.1 * deadline_ms


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
        ((1.0, 0.95, 0.90, 0.99), 0.4),  # the first load that isn't carried counts
        ((0.9, 1.0), 0.2),  # a bound
        ((1.0, 1.0, 0.96), 0.6),  # a bound
    ],
)
def test_the_carried_load_is_interpolated_at_the_required_share_in_time(in_time: tuple[float, ...], load: float) -> None:
    assert carried_load(points(*in_time)) == pytest.approx(load)


@pytest.mark.parametrize("name", ["both needed", "slow CPU"])
def test_no_policy_carries_more_than_the_upper_bound(name: str) -> None:
    scenario = BY_NAME[name]
    limit = upper_bound(scenario, CPU_PROFILES)

    assert 0.9 < limit < 1.1
    beyond = scenario.at(1.1 * limit)
    assert max(row.in_time for row in run_all(beyond, CPU_PROFILES, 2000, "1")) < CARRIED_SHARE
    assert upper_bound(BY_NAME["sizes"], CPU_PROFILES) == math.inf


def test_a_sweep_has_more_points_near_the_carried_load() -> None:
    found = list(sweep(Scenario("light", "", (Stream("resnet50", 0.2, 150),)), CPU_PROFILES, 100, "1"))

    assert {point.policy for point in found} == set(SWEPT)
    for policy in SWEPT:
        line = [point for point in found if point.policy == policy]
        assert {point.load for point in line} >= set(LOADS)
        assert line == sorted(line, key=lambda point: point.load)
        if min(point.in_time for point in line) < CARRIED_SHARE <= line[0].in_time:
            nearest = min(abs(point.load - carried_load(line)) for point in line)
            assert nearest <= (LOADS[1] - LOADS[0]) / 8 + 1e-9


@pytest.mark.parametrize("weighs_others", [True, False])
def test_long_requests_stay_off_the_cpu_while_many_short_urgent_ones_arrive_there(weighs_others: bool) -> None:
    short = [Request("mlp", 16, 0.0025 * number, 0.0025 * number + 0.01) for number in range(800)]
    long = [Request("resnet50", 1, 1.0 + 0.012 * number, 1.1 + 0.012 * number) for number in range(80)]
    requests = sorted([*short, *long], key=lambda request: request.arrived_s)

    simulate(requests, Machine(CPU_PROFILES, "small").devices("1"), Turnout(weighs_others=weighs_others))

    all_in_time = all(request.in_time for request in short)
    assert all_in_time is weighs_others
    assert {request.device for request in long if request.in_time} == ({GPU} if weighs_others else {CPU, GPU})


def test_a_quick_run_writes_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--requests", "150", "--output", str(tmp_path)])

    page = (tmp_path / "routing.md").read_text()
    assert capsys.readouterr().out == page + "\n"
    assert "- command: python -m simulation --requests 150 --seed 1\n" in page
    assert "The GPU is an assumption" in page
    assert all(f"## {scenario.name}\n" in page for scenario in SCENARIOS)
    rows = json.loads((tmp_path / "routing.json").read_text())["rows"]
    assert len(rows) == len(SCENARIOS) * (len(POLICIES) + 1)
    assert all(0 <= row["in_time"] <= 1 for row in rows)
    assert FIRST_IDLE in (tmp_path / "routing.svg").read_text()
    assert FIRST_IDLE in (tmp_path / "routing-loads.svg").read_text()
    assert "## Load carried with 95 % in time" in page


def test_equal_seeds_give_equal_results() -> None:
    first, second = (list(run_all(BY_NAME["deadlines"], CPU_PROFILES, 150, "7")) for _ in range(2))

    assert first == second
