import random
from collections.abc import Callable

import pytest
from turnout_server.explain.load import load


def flat(rows: int) -> float:
    """Like a GPU: more rows hardly take longer."""
    return 10_000 + 500 * rows


def linear(rows: int) -> float:
    """Like a CPU: batching gains nothing."""
    return 500 + 10_000 * rows


def simulated_us(rate_per_s: float, effective_max_batch: int, instances: int, service_us: Callable[[int], float]) -> float:
    """The mean wait of 50 000 requests of one row; an instance that becomes free batches the requests that wait."""
    source, now_s, arrivals_s = random.Random(1), 0.0, []
    for _ in range(50_000):
        now_s += source.expovariate(rate_per_s)
        arrivals_s.append(now_s)
    free_s, at, waited_s = [0.0] * instances, 0, 0.0
    while at < len(arrivals_s):
        instance = free_s.index(min(free_s))
        start_s = max(free_s[instance], arrivals_s[at])
        batch = [arrival_s for arrival_s in arrivals_s[at : at + effective_max_batch] if arrival_s <= start_s]
        waited_s += sum(start_s - arrival_s for arrival_s in batch)
        at += len(batch)
        free_s[instance] = start_s + service_us(len(batch)) * 1e-6
    return waited_s / len(arrivals_s) * 1e6


@pytest.mark.parametrize("service_us", [flat, linear])
@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("rate_per_s", [20, 50, 80])
def test_the_predicted_wait_is_between_one_and_two_times_that_of_a_simulation(
    rate_per_s: float, instances: int, service_us: Callable[[int], float]
) -> None:
    known = load(rate_per_s, 1, 16, instances, service_us)
    waits_us = simulated_us(rate_per_s, 16, instances, service_us)
    assert known.wait_us is not None
    assert waits_us <= known.wait_us * 1.02
    assert known.wait_us <= 2 * waits_us


def test_without_batching_the_wait_is_that_of_an_md1_queue() -> None:
    known = load(50, 1, 1, 1, lambda rows: 10_000)
    assert known.batch_rows == 1
    assert known.most_per_s == pytest.approx(100)
    assert known.utilisation == pytest.approx(0.5)
    assert known.wait_us == pytest.approx(0.5 / (2 * (1 - 0.5)) * 10_000)


def test_above_its_capacity_there_is_no_finite_wait() -> None:
    known = load(150, 1, 1, 1, lambda rows: 10_000)
    assert known.wait_us is None
    assert known.utilisation == pytest.approx(1.5)


def test_a_load_that_needs_batches_is_carried_with_batches() -> None:
    known = load(300, 1, 16, 1, flat)
    assert known.batch_rows == 4
    assert known.utilisation == 1
    assert known.most_per_s == pytest.approx(16 / flat(16) * 1e6)


def test_requests_larger_than_the_batch_limit_run_by_themselves() -> None:
    assert load(1, 24, 16, 1, flat).batch_rows == 24
    assert load(1, 5, 16, 1, flat).batch_rows == 5


def test_instances_share_the_load() -> None:
    one, two = (load(80, 1, 1, instances, lambda rows: 10_000) for instances in (1, 2))
    assert (two.utilisation, two.most_per_s) == (one.utilisation / 2, one.most_per_s * 2)
    assert one.wait_us is not None
    assert two.wait_us is not None
    assert two.wait_us < one.wait_us
