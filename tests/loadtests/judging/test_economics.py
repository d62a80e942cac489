"""Every number of the verdict's arithmetic, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.judging.economics import (
    USABLE,
    Offer,
    break_even_per_s,
    cheaper_between,
    cheapest,
    cost_per_hour,
    cost_per_million,
    cost_per_million_at_capacity,
    data_set,
    needed,
    worthwhile_per_s,
)  # fmt: skip

CPU, GPU = Offer("cpu", 100.0, 0.34), Offer("cuda", 2000.0, 1.20)


@pytest.mark.parametrize(("load", "count"), [(0.1, 1), (70.0, 1), (70.1, 2), (140.0, 2), (210.0, 3), (211.0, 4), (700.0, 10)])
def test_devices_are_whole_and_planned_at_70_percent(load: float, count: int) -> None:
    assert needed(load, CPU) == count
    assert cost_per_hour(load, CPU) == pytest.approx(count * 0.34)


def test_a_device_that_misses_the_target_is_of_no_use_in_any_number() -> None:
    missing = Offer("cpu", 0.0, 0.34)
    assert needed(1.0, missing) is None
    assert cost_per_hour(1.0, missing) is None
    assert cost_per_million_at_capacity(missing) is None
    assert break_even_per_s(missing, GPU) is None
    assert cheapest(1.0, [missing, GPU]) == (GPU, 1)
    assert cheapest(1.0, [missing]) is None


def test_a_million_requests_cost_the_hours_that_they_take() -> None:
    # at 50/s one CPU: 1e6 / 50 / 3600 = 5.556 h at 0.34
    assert cost_per_million(50.0, CPU) == pytest.approx(1.8889, abs=1e-4)
    # at 80/s two CPUs: 1e6 / 80 / 3600 = 3.472 h at 0.68
    assert cost_per_million(80.0, CPU) == pytest.approx(2.3611, abs=1e-4)
    # always at its capacity: 1e6 / 100 / 3600 = 2.778 h at 0.34
    assert cost_per_million_at_capacity(CPU) == pytest.approx(0.9444, abs=1e-4)


def test_break_even_is_on_the_steps_and_keeps_the_reserve() -> None:
    """Four CPUs cost 1.36, more than one GPU: above 3 x 70/s. Capacities and prices alone would say 353/s."""
    assert break_even_per_s(CPU, GPU) == pytest.approx(210.0)
    assert (cost_per_hour(210.0, CPU) or 0) < 1.20 < (cost_per_hour(210.1, CPU) or 0)


def test_a_gpu_cheaper_than_one_cpu_is_so_from_the_start() -> None:
    assert break_even_per_s(CPU, Offer("cuda", 2000.0, 0.30)) == 0.0


def test_a_gpu_that_costs_more_than_what_it_replaces_never_is() -> None:
    assert break_even_per_s(CPU, Offer("cuda", 200.0, 1.20)) is None  # 3.5 times the price, twice the capacity


def test_a_break_even_needs_both_prices() -> None:
    assert break_even_per_s(Offer("cpu", 100.0), GPU) is None
    assert break_even_per_s(CPU, Offer("cuda", 2000.0)) is None


def test_what_is_cheaper_between_two_steps_only_has_no_break_even() -> None:
    """Two CPUs cost more than one GPU, but two GPUs more than three CPUs, and so on for ever."""
    gpu = Offer("cuda", 1000 / 7, 0.60)
    assert break_even_per_s(CPU, gpu) is None
    ((begin, end),) = cheaper_between(CPU, gpu)
    assert [begin, end] == pytest.approx([70.0, 100.0])
    assert cheaper_between(CPU, Offer("cuda", 200.0, 1.20)) == []
    assert cheaper_between(CPU, Offer("cuda", 50.0, 0.30))[0] == (0.0, 35.0)


def test_a_break_even_is_above_all_loads_at_which_the_other_is_cheaper_again() -> None:
    """One GPU is cheaper than two CPUs, and two than three; but ten cost as much as thirteen."""
    first, second = Offer("cpu", 100.0, 1.0), Offer("cuda", 100.0 / 0.7, 1.3)
    rate = break_even_per_s(first, second)
    assert rate is not None
    assert rate == pytest.approx(910.0)
    assert list(cheaper_between(first, second)[0]) == pytest.approx([70.0, 100.0])
    assert cost_per_hour(rate, second) == pytest.approx(cost_per_hour(rate, first))


@given(st.floats(1, 1e4), st.floats(0.01, 100), st.floats(1, 1e4), st.floats(0.01, 100))
def test_above_the_break_even_the_second_is_always_cheaper(a: float, p: float, b: float, q: float) -> None:
    one, other = Offer("a", a, p), Offer("b", b, q)
    rate = break_even_per_s(one, other)
    if rate is None:
        return
    for step in (1e-6, 0.3, 0.99, 1.01, 2.5, 7.7, 40.0):
        above = rate + step * one.usable_per_s
        assert (cost_per_hour(above, other) or 0) <= (cost_per_hour(above, one) or 0) * (1 + 1e-6)
    if rate:
        assert (cost_per_hour(rate, other) or 0) >= (cost_per_hour(rate, one) or 0) * (1 - 1e-6)


@given(st.floats(1, 100), st.floats(0.1, 10), st.floats(1, 100), st.floats(0.1, 10), st.floats(0.01, 500))
def test_the_ranges_are_those_of_the_costs(a: float, p: float, b: float, q: float, load: float) -> None:
    one, other = Offer("a", a, p), Offer("b", b, q)
    mine, its = cost_per_hour(load, one) or 0.0, cost_per_hour(load, other) or 0.0
    within = any(begin < load <= end for begin, end in cheaper_between(one, other))
    near = any(abs(load - edge) < 1e-6 * load for pair in cheaper_between(one, other) for edge in pair)
    assert within == (its < mine) or near or abs(its - mine) < 1e-6 * mine


def test_the_cheapest_is_by_price_and_by_number_without_one() -> None:
    assert cheapest(50.0, [CPU, GPU]) == (CPU, 1)
    assert cheapest(500.0, [CPU, GPU]) == (GPU, 1)
    assert cheapest(500.0, [Offer("cpu", 100.0), GPU]) == (GPU, 1)
    assert cheapest(50.0, [Offer("cpu", 100.0), Offer("cuda", 2000.0)]) == (Offer("cpu", 100.0), 1)


def test_what_a_gpu_would_have_to_carry_follows_from_the_prices() -> None:
    assert worthwhile_per_s(CPU, 1.20) == pytest.approx(352.94, abs=0.01)
    assert worthwhile_per_s(Offer("cpu", 100.0), 1.20) is None


def test_a_data_set_takes_its_rows_over_the_throughput() -> None:
    hours, cost = data_set(1e6, 250.0, 0.34)
    assert hours == pytest.approx(1.1111, abs=1e-4)
    assert cost == pytest.approx(0.3778, abs=1e-4)
    assert data_set(1e6, 250.0, None)[1] is None


def test_the_reserve_is_stated() -> None:
    assert USABLE == 0.7
    assert CPU.usable_per_s == pytest.approx(70.0)
