from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.scheduling.batching import (
    MIN_GAIN,
    MIN_SPLIT_US,
    best_rows,
    chunks,
    collate,
    concatenate,
    neighbours,
    rows_for_one,
    rows_to_take,
    runs_us,
    scatter,
    select,
    split,
)

from tests.server.fakes import FakeRequest, FakeTenant

NOW_S = 100.0


@st.composite
def queues(draw: st.DrawFn) -> list[FakeRequest]:
    """Requests of two models with two batch keys, some of them cancelled or expired."""
    tenants = [FakeTenant(effective_max_batch=draw(st.integers(1, 8))) for _ in range(2)]
    queue = []
    for number in range(draw(st.integers(0, 12))):
        tenant = draw(st.sampled_from(tenants))
        rows = draw(st.integers(0, tenant.effective_max_batch))
        start_by_s = draw(st.sampled_from([None, NOW_S - 1, NOW_S, NOW_S + 1]))
        batch_key = draw(st.sampled_from(["wide", "narrow"]))
        cancelled = draw(st.booleans())
        queue.append(FakeRequest(tenant, number, batch_key, rows, start_by_s=start_by_s, cancelled=cancelled))
    return queue


def numbers(requests: list[FakeRequest]) -> list[int]:
    return [request.number for request in requests]


@given(queues())
def test_every_request_has_exactly_one_outcome(queue: list[FakeRequest]) -> None:
    chosen, rest = select(queue, NOW_S)
    outcomes = [*chosen.batch, *chosen.expired, *chosen.cancelled, *rest]
    assert sorted(numbers(outcomes)) == numbers(queue)


@given(queues())
def test_a_batch_has_one_model_and_batch_key_and_never_exceeds_the_models_limit(queue: list[FakeRequest]) -> None:
    batch = select(queue, NOW_S)[0].batch
    assert all(sum(other.rows for other in batch) <= request.tenant.effective_max_batch for request in batch)
    assert len({(request.tenant, request.batch_key) for request in batch}) <= 1


@given(queues())
def test_order_is_kept_and_the_oldest_goes_first(queue: list[FakeRequest]) -> None:
    chosen, rest = select(queue, NOW_S)
    for requests in (chosen.batch, rest, chosen.expired, chosen.cancelled):
        assert all(a < b for a, b in pairwise(numbers(requests)))
    alive = [request for request in queue if not request.cancelled and (request.start_by_s or NOW_S + 1) > NOW_S]
    assert chosen.batch[:1] == alive[:1]


@given(queues())
def test_cancelled_and_expired_requests_are_dropped_without_an_effect_on_others(queue: list[FakeRequest]) -> None:
    chosen, rest = select(queue, NOW_S)
    assert all(request.cancelled for request in chosen.cancelled)
    assert all(request.start_by_s is not None and request.start_by_s <= NOW_S for request in chosen.expired)
    stale = {*chosen.cancelled, *chosen.expired}
    without, rest_without = select([request for request in queue if request not in stale], NOW_S)
    assert (without.batch, without.expired, without.cancelled, rest_without) == (chosen.batch, [], [], rest)


def queue_of(*rows: int, effective_max_batch: int = 8) -> list[FakeRequest]:
    """Requests of one model with these numbers of rows."""
    tenant = FakeTenant(effective_max_batch=effective_max_batch)
    return [FakeRequest(tenant, number, rows=n) for number, n in enumerate(rows)]


def test_a_request_that_does_not_fit_waits_while_smaller_ones_behind_it_run() -> None:
    chosen, rest = select(queue_of(6, 4, 2), NOW_S)
    assert (numbers(chosen.batch), numbers(rest)) == ([0, 2], [1])


def test_a_request_larger_than_the_limit_runs_alone() -> None:
    chosen, rest = select(queue_of(9, 1), NOW_S)
    assert (numbers(chosen.batch), numbers(rest)) == ([0], [1])


def test_a_model_without_batching_runs_one_request_at_a_time() -> None:
    assert numbers(select(queue_of(1, 1, 1, effective_max_batch=1), NOW_S)[0].batch) == [0]


DTYPES = st.sampled_from([np.float32, np.int64, np.bool_, np.float16])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.lists(st.integers(0, 3), max_size=2), DTYPES)
def test_collating_and_scattering_returns_the_rows_of_each_request(
    rows: list[int], tail: list[int], dtype: type[np.generic]
) -> None:
    generator = np.random.default_rng(0)
    requests = [{name: generator.integers(0, 2, (n, *tail)).astype(dtype) for name in ("a", "b")} for n in rows]
    batched = collate(requests)
    assert {array.shape for array in batched.values()} == {(sum(rows), *tail)}
    for request, own in zip(requests, scatter(list(batched.values()), rows), strict=True):
        for want, got in zip(request.values(), own, strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def test_text_tensors_are_collated_too() -> None:
    requests = [{"t": np.array([["a"]], np.object_)}, {"t": np.array([["bc"], [""]], np.object_)}]
    assert collate(requests)["t"].tolist() == [["a"], ["bc"], [""]]


def test_a_single_request_is_passed_on_without_a_copy() -> None:
    inputs = {"a": np.zeros((2, 2))}
    assert collate([inputs])["a"] is inputs["a"]
    (outputs,) = scatter([inputs["a"]], [2])
    assert outputs[0] is inputs["a"]


@pytest.mark.parametrize("requests", [1, 2])
@pytest.mark.parametrize("offset", range(8))
def test_inputs_are_aligned_for_a_run_even_if_they_were_not_in_their_message(requests: int, offset: int) -> None:
    numbers = np.arange(6, dtype=np.float64).reshape(3, 2)
    message = bytes(offset) + numbers.tobytes()
    view: np.ndarray = np.ndarray(numbers.shape, numbers.dtype, message, offset)
    batched = collate([{"a": view}] * requests)["a"]
    assert batched.flags.aligned
    np.testing.assert_array_equal(batched, np.concatenate([numbers] * requests))


@pytest.mark.parametrize("shape", [(2,), (4, 1), ()])
def test_an_output_with_another_number_of_rows_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a run of 3 rows gave an output of shape"):
        scatter([np.zeros(shape)], [1, 2])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_splitting_and_concatenating_returns_the_same_rows_without_copying_inputs(rows: list[int]) -> None:
    generator = np.random.default_rng(0)
    inputs = {name: generator.standard_normal((sum(rows), 2)) for name in ("a", "b")}
    pieces = split(inputs, rows)
    assert [len(piece["a"]) for piece in pieces] == rows
    assert all(np.shares_memory(piece[name], inputs[name]) for piece in pieces for name in inputs)
    together = concatenate([[piece["a"], piece["b"]] for piece in pieces])
    for want, got in zip(inputs.values(), together, strict=True):
        np.testing.assert_array_equal(got, want)


LIMITS = st.integers(1, 64)
TIMES = st.dictionaries(st.integers(1, 64), st.floats(1, 1e6), max_size=5)


def takes(run_us: float, row_us: float) -> Callable[[int], float | None]:
    """Runs that take `run_us`, and `row_us` more for each row."""
    return lambda rows: run_us + row_us * rows


def never_measured(rows: int) -> None:
    """No measurement."""


@given(LIMITS, TIMES, st.one_of(st.none(), st.floats(1, 1e6)))
def test_the_best_batch_is_within_the_limit(limit: int, known: dict[int, float], target_us: float | None) -> None:
    assert 1 <= best_rows(known.get, limit, target_us) <= limit


@given(LIMITS, st.floats(0, 1e5), st.floats(0.1, 1e5))
def test_the_best_batch_is_the_smallest_of_about_the_lowest_cost_per_row(limit: int, run: float, row: float) -> None:
    predict = takes(run, row)
    rows = best_rows(predict, limit)
    cheapest_us = (predict(limit) or 0.0) / limit
    enough_us = cheapest_us * (1 + MIN_GAIN)
    assert (predict(rows) or 0.0) / rows <= enough_us
    smaller = [size for size in (1, 2, 4, 8, 16, 32) if size < rows]
    assert all((predict(size) or 0.0) / size > enough_us for size in smaller)


@pytest.mark.parametrize(
    ("predict", "target_us", "rows"),
    [
        (takes(0, 100), None, 1),  # one row keeps the device busy: batching gains nothing
        (takes(100, 0), None, 20),  # more rows take no longer
        (takes(100, 100), None, 16),  # 106 us a row; 105 at 20
        (takes(100, 100), 900, 8),
        (takes(100, 100), 899, 4),
        (takes(100, 100), 50, 1),  # not even one row meets the target
        (never_measured, None, 20),
    ],
)
def test_the_best_batch_grows_while_that_raises_throughput_within_the_target(
    predict: Callable[[int], float | None], target_us: float | None, rows: int
) -> None:
    assert best_rows(predict, 20, target_us) == rows


@given(st.integers(1, 64), LIMITS, st.integers(1, 8), st.floats(0, 1e5), st.floats(0.1, 1e5))
def test_a_worker_takes_an_even_share_or_as_much_as_it_may(
    waiting: int, effective_max_batch: int, workers: int, run: float, row: float
) -> None:
    most = min(waiting, effective_max_batch)
    rows = rows_for_one(waiting, most, workers, takes(run, row))
    assert rows in (most, min(most, -(-waiting // workers)))
    if not run:  # rows cost the same in any run
        assert rows == min(most, -(-waiting // workers))


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [(1, 1, []), (1, 8, [2]), (4, 8, [8, 2]), (8, 8, [4]), (16, 20, [20, 8]), (20, 20, [16]), (5, 8, [8, 4])],
)
def test_the_neighbours_of_a_size_are_the_next_larger_and_smaller_candidates(
    rows: int, limit: int, expected: list[int]
) -> None:
    assert neighbours(rows, limit) == expected


@pytest.mark.parametrize(
    ("known", "target_us", "rows"),
    [
        ({1: 100}, None, 20),  # no other size to compare with
        ({1: 100}, 550, 5),
        ({1: 100}, 50, 1),
        ({1: 100, 2: 100}, None, 4),
        ({1: 100, 2: 100, 4: 100}, None, 8),
        ({1: 100, 2: 100, 4: 100, 8: 100, 16: 100}, None, 20),
        ({1: 100, 2: 200}, None, 1),
        ({1: 100, 2: 100, 4: 200}, None, 2),
    ],
)
def test_twice_the_largest_worthwhile_size_is_tried(known: dict[int, float], target_us: float | None, rows: int) -> None:
    assert best_rows(known.get, 20, target_us) == rows


@given(st.integers(1, 100), LIMITS, st.lists(LIMITS, max_size=3))
def test_a_preferred_number_of_rows_is_taken_if_enough_wait(
    waiting: int, effective_max_batch: int, preferred: list[int]
) -> None:
    rows = rows_to_take(waiting, effective_max_batch, preferred)
    most = min(waiting, effective_max_batch)
    assert 1 <= rows <= most
    assert rows == max((size for size in preferred if size <= most), default=most)


@given(st.integers(1, 500), LIMITS, st.floats(0, 10), st.floats(0, 1e4))
def test_chunks_have_all_the_rows_and_none_exceeds_the_batch_limit(
    rows: int, effective_max_batch: int, run: float, row: float
) -> None:
    predict = takes(run, row)
    split = chunks(rows, effective_max_batch, predict)
    assert sum(split) == rows
    if len(split) > 1:
        assert all(1 <= chunk <= effective_max_batch for chunk in split)
        assert (predict(rows) or 0.0) >= MIN_SPLIT_US
    runs = [min(effective_max_batch, rows - start) for start in range(0, rows, effective_max_batch)]
    assert runs_us(rows, effective_max_batch, predict) == pytest.approx(sum(predict(n) or 0.0 for n in runs))


@pytest.mark.parametrize(
    ("rows", "predict", "split"),
    [
        (8, takes(0, MIN_SPLIT_US), [8]),
        (20, takes(0, MIN_SPLIT_US / 20), [8, 8, 4]),
        (16, takes(0, MIN_SPLIT_US), [8, 8]),
        (20, takes(0, MIN_SPLIT_US / 21), [20]),  # too short to be worth splitting
        (20, never_measured, [20]),
    ],
)
def test_a_request_is_split_if_it_exceeds_the_batch_limit_and_takes_long(
    rows: int, predict: Callable[[int], float | None], split: list[int]
) -> None:
    assert chunks(rows, 8, predict) == split


def test_runs_that_were_never_measured_count_as_zero() -> None:
    assert runs_us(20, 8, never_measured) == 0
    assert runs_us(0, 8, takes(1, 1)) == 0
