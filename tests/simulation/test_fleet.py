"""The simulated fleet: its pods follow its load, and its models have the devices of their verdicts."""

import json
from pathlib import Path

import pytest

from simulation import fleet
from simulation.fleet import DEMANDS, HOURS, LEAST_PODS, PLANNED_USE, Demand, day, days, pods_needed, profiles_of, verdict
from simulation.scenarios import ENCODER, MLP, RESNET
from simulation.service import CPU, GPU, PRICE_PER_HOUR
from simulation.simulated_device import capacity_rows_per_s

BY_MODEL = {demand.model: demand for demand in DEMANDS}


def test_a_day_has_its_mean_and_its_peak_at_noon() -> None:
    hours = [BY_MODEL[RESNET].rows_per_s_at(hour) for hour in range(HOURS)]
    assert sum(hours) / HOURS == pytest.approx(BY_MODEL[RESNET].rows_per_s)
    assert max(range(HOURS), key=hours.__getitem__) in (11, 12)
    assert max(hours) > 10 * min(hours)


@pytest.mark.parametrize(("gpu", "model", "device"), [("large", MLP, CPU), ("large", RESNET, GPU), ("small", ENCODER, CPU)])
def test_the_verdict_is_the_cheaper_device(gpu: str, model: str, device: str) -> None:
    found = verdict(BY_MODEL[model], profiles_of(gpu))
    assert found.device == device == min(found.cost_per_million, key=lambda kind: found.cost_per_million[kind])


def test_the_verdict_is_the_dearer_device_if_the_cheaper_one_misses_the_deadline() -> None:
    urgent = Demand(RESNET, 10.0, deadline_ms=40.0)  # a run on the CPU takes 52 ms
    found = verdict(urgent, profiles_of("small"))
    assert (found.device, min(found.cost_per_million.values())) == (GPU, found.cost_per_million[CPU])


def test_there_are_pods_for_the_load_and_at_least_two() -> None:
    saved = profiles_of("large")[CPU][RESNET]
    capacity = capacity_rows_per_s(saved)
    for hour in range(HOURS):
        pods = pods_needed(BY_MODEL[RESNET], hour, saved)
        use = BY_MODEL[RESNET].rows_per_s_at(hour) / capacity / pods
        assert use <= PLANNED_USE
        assert pods >= LEAST_PODS
    assert pods_needed(Demand(RESNET, 0.1, 100.0), 0, saved) == LEAST_PODS


def test_pools_answer_in_time_what_round_robin_over_the_same_pods_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "HOURS", 2)
    pools, mixed = (day("large", pools=each, factor=1.0, seconds=0.5, seed="1") for each in (True, False))
    assert pools.in_time > 0.99
    assert mixed.in_time < pools.in_time
    assert (
        mixed.price
        == pools.price
        == pytest.approx(2 * (mixed.most.cpu * PRICE_PER_HOUR[CPU] + mixed.most.gpu * PRICE_PER_HOUR[GPU]))
    )


def test_the_search_for_the_target_ends_with_it_or_with_the_largest_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "HOURS", 1)
    found = list(days("large", 0.3, "1"))
    assert [row.factor for row in found[:2]] == [1, 1]
    assert found[-1].in_time >= fleet.TARGET or found[-1].factor == fleet.FACTORS[-1]


def test_the_report_has_every_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fleet, "HOURS", 1)
    fleet.main(["--seconds=0.2", f"--output={tmp_path}"])
    page, data = (tmp_path / "fleet.md").read_text(), json.loads((tmp_path / "fleet.json").read_text())
    assert str(tmp_path / "fleet.md") in capsys.readouterr().out
    for row in data["days"]:
        assert f"{row['price']:.2f}" in page
    assert "assumptions" in page
