"""The report's tables; what devices carry is made up, so that the numbers can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from turnout_loadtests.judging.agreement import Agreement
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.measuring.energy import Energy
from turnout_loadtests.reporting import tables
from turnout_loadtests.reporting.conclusions import concluded, evidence_of
from turnout_loadtests.reporting.results import Results
from turnout_loadtests.reporting.tables import DASH

from tests.loadtests.made import Behaviour, World, entry, load


def facts(name: str, price: float | None) -> DeviceFacts:
    return DeviceFacts(name, name, f"{name} provider", 2, 1, price_per_hour=price, price_source="command line")


def made(prices: dict[str, float | None], **world: object) -> Results:
    devices = {"cpu": Behaviour(ms=10.0), "cuda": Behaviour(ms=2.0)}
    capacities = [Capacity("resnet50", "cpu", 1, 50.0, 100.0, 104.0), Capacity("resnet50", "cuda", 1, 50.0, 2000.0, 2080.0)]
    return World(
        devices, {name: facts(name, prices.get(name)) for name in devices},
        **{"capacities": capacities, "target_ms": 50.0, "rounds": 4, "window_s": 2.0, **world},  # type: ignore[arg-type]
    ).results()  # fmt: skip


PRICED = made({"cpu": 0.34, "cuda": 1.20}, loads_per_s=(150.0, 500.0))


def rows(table: tables.Table) -> dict[str, list[str]]:
    return {row[0]: list(row[1:]) for row in table.rows}


def test_the_grid_has_the_cheapest_device_for_each_load_and_target() -> None:
    grid = tables.grid(PRICED, evidence_of(PRICED, "resnet50"))
    found = rows(grid)
    assert grid.headings == ["Requests/s", "p99 ≤ 50 ms"] or "p99 ≤ 50 ms" in grid.headings
    column = list(grid.headings).index("p99 ≤ 50 ms") - 1
    assert found["150/s"][column] == "3 x cpu"  # 1.02 against 1.20
    assert found["500/s"][column] == "1 x cuda"  # 2.72 against 1.20


def test_a_capacity_that_is_only_known_to_be_at_least_so_much_gives_a_bound() -> None:
    coarse = [Capacity("resnet50", "cpu", 1, 50.0, 100.0, 200.0), Capacity("resnet50", "cuda", 1, 50.0, 0.0, 5.0)]
    results = made({"cpu": 0.34, "cuda": 1.2}, loads_per_s=(50.0, 500.0), capacities=coarse)
    found = rows(tables.grid(results, evidence_of(results, "resnet50")))
    assert (found["50/s"], found["500/s"]) == (["1 x cpu"], ["≤ 8 x cpu"])


def test_costs_of_a_capacity_that_may_be_more_are_bounds() -> None:
    early = [Capacity("resnet50", "cpu", 1, 50.0, 50.0, None), Capacity("resnet50", "cuda", 1, 50.0, 2000.0, 2080.0)]
    priced: dict[str, float | None] = {"cpu": 0.34, "cuda": 1.2}
    for prices, cells in (
        (priced, ["≤ 15 x = ≤ 5.10/h; ≤ 2.83 a million", "1 x = 1.20/h; 0.67 a million"]),
        ({}, ["≤ 15 x", "1 x"]),
    ):
        results = made(prices, loads_per_s=(500.0,), capacities=early)
        evidence = evidence_of(results, "resnet50")
        table = tables.cost(results, evidence, 50.0)
        assert rows(table)["500/s"] == cells
        assert "its capacity wasn't reached" in table.note
        if prices:
            assert rows(table)["always at capacity"][0].startswith("≤ ")
            grid = tables.grid(results, evidence)
            assert rows(grid)["500/s"][list(grid.headings).index("p99 ≤ 50 ms") - 1] == "1 x cuda ?"


def test_the_cost_table_and_the_break_even_are_the_same_step_function() -> None:
    found = rows(tables.cost(PRICED, evidence_of(PRICED, "resnet50"), 50.0))
    # 150/s: 3 CPUs = 1.02/h; a million takes 1e6 / 150 / 3600 = 1.852 h
    assert found["150/s"] == ["3 x = 1.02/h; 1.89 a million", "1 x = 1.20/h; 2.22 a million"]
    assert found["500/s"] == ["8 x = 2.72/h; 1.51 a million", "1 x = 1.20/h; 0.67 a million"]
    assert found["always at capacity"] == ["0.94 a million", "0.17 a million"]


def test_without_prices_the_tables_count_devices_and_invent_nothing() -> None:
    results = made({}, loads_per_s=(500.0,))
    evidence = evidence_of(results, "resnet50")
    assert rows(tables.cost(results, evidence, 50.0))["500/s"] == ["8 x", "1 x"]
    assert "prices aren't known" in tables.grid(results, evidence).note
    assert all(row[-1] == DASH for row in tables.data_sets(results, evidence).rows)


def test_a_device_that_misses_the_target_has_a_dash() -> None:
    results = made({"cpu": 0.34, "cuda": 1.2}, loads_per_s=(500.0,), capacities=[
        Capacity("resnet50", "cpu", 1, 50.0, None, 0.5), Capacity("resnet50", "cuda", 1, 50.0, 2000.0, 2080.0),
    ])  # fmt: skip
    assert rows(tables.cost(results, evidence_of(results, "resnet50"), 50.0))["500/s"][0] == DASH


def test_a_data_set_takes_a_million_rows_over_the_throughput() -> None:
    evidence = evidence_of(PRICED, "resnet50")
    found = rows(tables.data_sets(PRICED, evidence))
    fullest = evidence.fullest("cpu")
    assert fullest is not None
    assert fullest.rows_per_s is not None
    minutes = 1e6 / fullest.rows_per_s / 60
    assert float(found["cpu"][1].split()[0]) * {"h": 60, "min": 1}[found["cpu"][1].split()[1]] == pytest.approx(
        minutes, rel=0.01
    )
    assert float(found["cpu"][2]) == pytest.approx(minutes / 60 * 0.34, rel=0.03)


def test_processing_time_has_the_speed_up_with_its_interval_over_the_best_cpu() -> None:
    table = tables.processing(PRICED)
    by_device = {row[1]: row for row in table.rows}
    assert by_device["cpu"][-1] == "1 (the baseline)"
    ratio, _, interval = by_device["cuda"][-1].partition(" ")
    assert float(ratio) == pytest.approx(5.0, rel=0.1)
    assert " to " in interval


def test_time_by_model_is_a_row_for_each_model_and_left_out_for_one() -> None:
    both = made({}, models=("resnet50", "encoder"), capacities=())
    table = tables.per_model(both)
    assert [row[0] for row in table.rows] == ["resnet50", "encoder"]
    assert float(table.rows[0][1]) == pytest.approx(10.0, rel=0.05)
    assert tables.per_model(PRICED).rows == []


def test_energy_is_by_row_with_its_source_or_said_to_be_unknown() -> None:
    assert tables.power(PRICED).rows == []
    assert "Not measurable here" in tables.power(PRICED).note
    summaries = [replace(each, cpu_j=100.0, cpu_source="RAPL", duration_s=10.0, answers=200) for each in PRICED.summaries]
    machine = replace(PRICED.machines[0], idle_w={"cpu": 4.0})
    measured = replace(PRICED, summaries=summaries, machines=[machine])
    cpu = next(row for row in tables.power(measured).rows if row[1] == "cpu")
    # 100 J in 10 s are 10 W; over 200 rows 0.5 J; less 4 W x 10 s 0.3 J
    assert cpu[2:] == ["4.00", "10.0", "0.500", "0.300", "0.500", "RAPL"]
    assert Energy(100.0, "RAPL").watts(10.0) == 10.0


def test_agreement_is_shown_where_it_was_measured() -> None:
    assert tables.agreement(PRICED).rows == []
    results = replace(PRICED, agreements=[Agreement("resnet50", "cuda", "cpu", 8, 1.5e-5, 8)])
    assert tables.agreement(results).rows == [["resnet50", "cuda", "fp32", "cpu", "1.5e-05", "8 of 8"]]


def test_every_experiment_is_listed_with_its_state_and_an_invalid_one_has_no_numbers() -> None:
    broken = World({"cpu": Behaviour(), "cuda": Behaviour(fails_share=0.6)}, rounds=3, window_s=1.0).results()
    table = tables.measurements(concluded(broken))
    assert len(table.rows) == len(broken.summaries)
    invalid = [row for row in table.rows if row[1] == "cuda"]
    assert all(row[5:9] == [DASH] * 4 and row[14] == "INVALID" and "requests failed" in row[15] for row in invalid)


def test_requests_that_were_not_sent_are_counted_and_the_overload_comes_first() -> None:
    slow = World({"cpu": Behaviour(queues=True)}, loads_per_s=(30.0, 300.0), rounds=3, target_ms=9000.0).results()
    load, overload = tables.measurements(slow).rows[-2:]
    assert (load[12], load[14]) == ("0", "VALID")
    assert (int(overload[12]) > 100, overload[14]) == (True, "INVALID")
    assert overload[15].startswith(f"overloaded: {overload[12]} of ")


def test_loads_are_those_asked_for_and_a_series_around_what_devices_carry() -> None:
    loads = tables.loads_of(PRICED, tables.offers_of(PRICED, evidence_of(PRICED, "resnet50"), 50.0))
    assert {150.0, 500.0} <= set(loads)
    assert loads == sorted(loads)
    assert min(loads) <= 70
    assert max(loads) >= 1400
    assert len(loads) <= tables.MAX_LOADS + 2
    assert tables.loads_of(PRICED, []) == [150.0, 500.0]


def test_a_device_that_is_slower_whatever_the_baseline_can_do_keeps_its_speed_up() -> None:
    """The baseline's larger batch has no valid measurement, so that it may be any number of times faster."""
    devices = {"cpu": Behaviour(ms=2.0, fails_share=0.51, fails_at=(8,)), "cuda": Behaviour(ms=200.0)}
    results = World(devices, batches=(1, 8)).results()
    speed_ups = {row[1]: row[-1] for row in tables.processing(results).rows}
    assert speed_ups["cuda"].startswith("0.08")
    assert "(0 to 0.08" in speed_ups["cuda"]
    assert "undecided" not in speed_ups["cuda"]


@pytest.mark.parametrize("batch", [1, 8])
def test_the_time_for_a_row_is_that_of_its_part_of_a_request(batch: int) -> None:
    """One request of so many rows takes 80 ms, alone or with another."""
    ledger = World({"cpu": Behaviour(ms=80.0)}, models=("a", "b"), rounds=0).ledger()
    chance = np.random.default_rng(1)
    for model in ledger.models:
        for number in (1, 2, 3):
            for given in (load(batch=batch), load(batch=batch, in_flight=2, fills=True)):
                ledger.enter(*entry(replace(given, model=model), Behaviour(ms=80.0), number, chance))
    table = tables.per_model(ledger.results(complete=True))
    assert table.headings == ["Model", "cpu: alone", "cpu: filled"]
    for row in table.rows:
        alone, filled = map(float, row[1:])
        assert alone == pytest.approx(80.0 / batch, rel=0.05)
        assert filled == pytest.approx(40.0 / batch, rel=0.05)
