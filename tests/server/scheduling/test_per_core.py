from random import Random
from statistics import fmean

import pytest
from turnout_server.scheduling.per_core import MEMORY_S, Crowd, least_requests

from tests.server.fakes import FakeTenant


def in_a_loop(crowd: Crowd, clients: int, now_s: float, seconds: float, together: bool = False) -> float:
    """Clients that send again 1 ms after each answer; each run takes 16 ms. Returns the time afterwards."""
    ends_s = now_s + seconds
    while now_s < ends_s:
        crowd.changed(now_s, clients)
        now_s += 0.016
        crowd.changed(now_s, 0 if together else clients - 1)
        now_s += 0.001
    return now_s


@pytest.mark.parametrize("clients", [1, 2, 3, 5])
@pytest.mark.parametrize("together", [False, True], ids=["in turns", "all at the same time"])
def test_clients_in_a_loop_are_counted_although_they_are_gone_for_a_moment(clients: int, together: bool) -> None:
    crowd = Crowd()
    now_s = in_a_loop(crowd, clients, 1000.0, 1.0, together)
    assert round(crowd.mean(now_s)) == clients


def test_clients_that_have_gone_are_soon_forgotten_and_new_ones_soon_seen() -> None:
    crowd = Crowd()
    now_s = in_a_loop(crowd, 2, 1000.0, 1.0)
    now_s = in_a_loop(crowd, 1, now_s, MEMORY_S)
    assert round(crowd.mean(now_s)) == 1
    now_s = in_a_loop(crowd, 2, now_s, MEMORY_S)
    assert round(crowd.mean(now_s)) == 2
    crowd.changed(now_s, 0)
    assert round(crowd.mean(now_s + 60)) == 0


@pytest.mark.parametrize(("busy", "crowded"), [(0.3, False), (0.5, False), (0.9, True)])
def test_requests_at_random_are_a_crowd_once_the_device_is_mostly_busy(busy: float, crowded: bool) -> None:
    """As many requests as an M/D/1 queue has, one after another, make the same mean as those of clients in a loop."""
    random, crowd, free_s, now_s, means = Random(1), Crowd(), 0.0, 0.0, []
    ends: list[float] = []
    for _ in range(3000):
        now_s += random.expovariate(busy / 0.01)
        for end_s in [end_s for end_s in ends if end_s <= now_s]:
            ends.remove(end_s)
            crowd.changed(end_s, len(ends))
        free_s = max(free_s, now_s) + 0.01
        ends.append(free_s)
        crowd.changed(now_s, len(ends))
        means.append(crowd.mean(now_s))
    assert (fmean(means) > 1.5) is crowded


@pytest.mark.parametrize(
    ("together", "alone_us", "cores", "expected"),
    [
        pytest.param(FakeTenant(run_us=1700, row_us=10_000), 16_600, 2, 2, id="two rows in 16.6 ms rather than 21.7"),
        pytest.param(FakeTenant(run_us=0, row_us=9_000), 16_600, 2, 2, id="two rows in 16.6 ms rather than 18"),
        pytest.param(FakeTenant(run_us=0, row_us=8_000), 16_600, 2, None, id="all cores are shared out well"),
        pytest.param(FakeTenant(run_us=2_000, row_us=1_000), 9_000, 16, 8, id="16 cores: 8 rows in 9 ms rather than 10"),
        pytest.param(FakeTenant(run_us=0, row_us=5_000, effective_max_batch=1), 10_100, 2, None, id="as slow, without batches"),
    ],
)
def test_each_core_has_its_own_run_from_as_many_rows_on_as_are_done_sooner(
    together: FakeTenant, alone_us: float, cores: int, expected: int | None
) -> None:
    assert least_requests(together, FakeTenant(run_us=alone_us, effective_max_batch=1), cores) == expected


def test_a_lone_row_has_all_cores_even_if_it_is_no_slower_on_one() -> None:
    assert least_requests(FakeTenant(run_us=500), FakeTenant(run_us=100, effective_max_batch=1), 2) == 2


def test_runs_that_were_never_measured_are_never_preferred() -> None:
    assert least_requests(FakeTenant(run_us=1000), FakeTenant(), 2) is None
