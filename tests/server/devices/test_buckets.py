import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.devices.buckets import MIN_CHANGE_US, bucket_for, bucket_sizes, doubling, is_size_sensitive


@pytest.mark.parametrize(("rows", "sizes"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12))])
def test_sizes_double_up_to_the_limit(rows: int, sizes: tuple[int, ...]) -> None:
    assert doubling(rows) == sizes


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(1, (1,)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12)), (40, (1, 2, 4, 8, 12, 16, 24, 32, 40))],
)
def test_larger_buckets_are_closer_to_each_other(rows: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(rows) == sizes


def test_large_runs_are_hardly_padded() -> None:
    buckets = bucket_sizes(256)
    sizes = range(1, 257)
    assert sum(sizes) / sum(bucket_for(rows, buckets) for rows in sizes) > 0.85


@given(st.integers(1, 300), st.integers(1, 400))
def test_a_run_is_padded_to_less_than_twice_its_rows_or_not_at_all(limit: int, rows: int) -> None:
    size = bucket_for(rows, bucket_sizes(limit))
    assert rows <= size < 2 * rows if rows <= limit else size == 0


@pytest.mark.parametrize(
    ("steady_us", "alternating_us", "sensitive"),
    [
        (2_700, 163_000, True),  # ResNet-50 on an H200
        (3_700, 3_700, False),  # BERT there
        (50_000, 90_000, False),  # padding costs as much
        (10, 10 + MIN_CHANGE_US / 2, False),  # too little to care
    ],
)
def test_padding_pays_where_a_change_of_size_costs_more(steady_us: float, alternating_us: float, sensitive: bool) -> None:
    assert is_size_sensitive(steady_us, alternating_us) is sensitive
