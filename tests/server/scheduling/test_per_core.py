import pytest
from turnout_server.scheduling.per_core import ARRIVALS, MOST_ROWS, Crowd, least_rows

from tests.server.fakes import FakeTenant


def test_clients_that_come_back_are_counted_by_what_the_last_few_met() -> None:
    crowd = Crowd()
    for _ in range(ARRIVALS - 1):
        crowd.add(2)
    assert crowd.least() == 0
    crowd.add(2)
    assert crowd.least() == 2  # although one of them has just been answered and isn't back yet


def test_a_request_that_came_alone_ends_the_crowd_at_once() -> None:
    crowd = Crowd()
    for requests in (3, 2, 4, 3, 1):
        crowd.add(requests)
    assert crowd.least() == 1
    for _ in range(ARRIVALS):
        crowd.add(3)
    assert crowd.least() == 3


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
    assert least_rows(together, FakeTenant(run_us=alone_us, effective_max_batch=1), cores) == expected


def test_a_lone_row_has_all_cores_even_if_it_is_no_slower_on_one() -> None:
    assert least_rows(FakeTenant(run_us=500), FakeTenant(run_us=100, effective_max_batch=1), 2) == 2


def test_what_is_only_sooner_for_some_numbers_of_rows_counts_from_the_largest_gap_on() -> None:
    slow_from_six_on = FakeTenant(run_us=20_000, effective_max_batch=MOST_ROWS * 2)
    assert least_rows(slow_from_six_on, FakeTenant(run_us=9_000, effective_max_batch=1), 2) is None


def test_runs_that_were_never_measured_are_never_preferred() -> None:
    assert least_rows(FakeTenant(run_us=1000), FakeTenant(), 2) is None
