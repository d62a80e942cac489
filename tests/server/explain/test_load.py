import random
from collections.abc import Callable

import pytest
from turnout_server.explain.load import load


def flat(rows: int) -> float:
    """A GPU, say: more rows take hardly longer."""
    return 10_000 + 500 * rows


def linear(rows: int) -> float:
    """A CPU, say: nothing is gained by joining."""
    return 500 + 10_000 * rows


def simulated_us(rate_per_s: float, cap: int, instances: int, service_us: Callable[[int], float]) -> float:
    """The mean wait of 50 000 requests of one row, each joined with those that wait when an instance gets free."""
    source, now_s, arrivals_s = random.Random(1), 0.0, []
    for _ in range(50_000):
        now_s += source.expovariate(rate_per_s)
        arrivals_s.append(now_s)
    free_s, at, waited_s = [0.0] * instances, 0, 0.0
    while at < len(arrivals_s):
        instance = free_s.index(min(free_s))
        start_s = max(free_s[instance], arrivals_s[at])
        batch = [arrival_s for arrival_s in arrivals_s[at : at + cap] if arrival_s <= start_s]
        waited_s += sum(start_s - arrival_s for arrival_s in batch)
        at += len(batch)
        free_s[instance] = start_s + service_us(len(batch)) * 1e-6
    return waited_s / len(arrivals_s) * 1e6


@pytest.mark.parametrize("service_us", [flat, linear])
@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("rate_per_s", [20, 50, 80])
def test_the_wait_is_not_shorter_than_in_a_simulation_and_less_than_twice_as_long(
    rate_per_s: float, instances: int, service_us: Callable[[int], float]
) -> None:
    known = load(rate_per_s, 1, 16, instances, service_us)
    waits_us = simulated_us(rate_per_s, 16, instances, service_us)
    assert known.wait_us is not None
    assert waits_us <= known.wait_us * 1.02
    assert known.wait_us <= 2 * waits_us


def test_without_batches_it_is_the_md1_formula() -> None:
    known = load(50, 1, 1, 1, lambda rows: 10_000)
    assert known.batch_rows == 1
    assert known.most_per_s == pytest.approx(100)
    assert known.utilisation == pytest.approx(0.5)
    assert known.wait_us == pytest.approx(0.5 / (2 * (1 - 0.5)) * 10_000)


def test_above_what_it_can_carry_the_queue_grows_without_end() -> None:
    known = load(150, 1, 1, 1, lambda rows: 10_000)
    assert known.wait_us is None
    assert known.utilisation == pytest.approx(1.5)


def test_a_load_that_needs_batches_is_carried_by_them() -> None:
    known = load(300, 1, 16, 1, flat)
    assert known.batch_rows == 4
    assert known.utilisation == 1
    assert known.most_per_s == pytest.approx(16 / flat(16) * 1e6)


def test_requests_larger_than_the_cap_run_by_themselves() -> None:
    assert load(1, 24, 16, 1, flat).batch_rows == 24
    assert load(1, 5, 16, 1, flat).batch_rows == 5


def test_instances_share_the_load() -> None:
    one, two = (load(80, 1, 1, instances, lambda rows: 10_000) for instances in (1, 2))
    assert (two.utilisation, two.most_per_s) == (one.utilisation / 2, one.most_per_s * 2)
    assert one.wait_us is not None
    assert two.wait_us is not None
    assert two.wait_us < one.wait_us
