from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.batching import Selection, collate, scatter, select

NOW_S = 100.0


@dataclass(frozen=True)
class Request:
    """A waiting request; `number` tells it from others like it."""

    number: int
    key: str = "k"
    rows: int = 1
    max_rows: int = 8
    deadline_s: float | None = None
    cancelled: bool = False


@st.composite
def queues(draw: st.DrawFn) -> list[Request]:
    """Requests of two models, some of them dead."""
    limits = {"k": draw(st.integers(1, 8)), "l": draw(st.integers(1, 8))}
    queue = []
    for number in range(draw(st.integers(0, 12))):
        key = draw(st.sampled_from("kl"))
        rows = draw(st.integers(0, limits[key]))
        deadline_s = draw(st.sampled_from([None, NOW_S - 1, NOW_S, NOW_S + 1]))
        queue.append(Request(number, key, rows, limits[key], deadline_s, draw(st.booleans())))
    return queue


def numbers(requests: list[Request]) -> list[int]:
    return [request.number for request in requests]


@given(queues())
def test_every_request_goes_exactly_one_way(queue: list[Request]) -> None:
    chosen = select(queue, NOW_S)
    ways = [*chosen.batch, *chosen.expired, *chosen.cancelled, *chosen.rest]
    assert sorted(numbers(ways)) == numbers(queue)


@given(queues())
def test_a_batch_is_never_above_the_models_limit(queue: list[Request]) -> None:
    batch = select(queue, NOW_S).batch
    assert all(sum(other.rows for other in batch) <= request.max_rows for request in batch)
    assert len({request.key for request in batch}) <= 1


@given(queues())
def test_order_is_kept_and_the_oldest_goes_first(queue: list[Request]) -> None:
    chosen = select(queue, NOW_S)
    for part in (chosen.batch, chosen.rest, chosen.expired, chosen.cancelled):
        assert all(a < b for a, b in pairwise(numbers(part)))
    alive = [request for request in queue if not request.cancelled and (request.deadline_s or NOW_S + 1) > NOW_S]
    assert chosen.batch[:1] == alive[:1]


@given(queues())
def test_the_cancelled_and_the_expired_leave_and_change_nothing_for_the_others(queue: list[Request]) -> None:
    chosen = select(queue, NOW_S)
    assert all(request.cancelled for request in chosen.cancelled)
    assert all(request.deadline_s is not None and request.deadline_s <= NOW_S for request in chosen.expired)
    dead = {*chosen.cancelled, *chosen.expired}
    without = select([request for request in queue if request not in dead], NOW_S)
    assert without == Selection(chosen.batch, [], [], chosen.rest)


def test_a_request_that_does_not_fit_waits_while_smaller_ones_behind_it_run() -> None:
    queue = [Request(0, rows=6), Request(1, rows=4), Request(2, rows=2)]
    chosen = select(queue, NOW_S)
    assert (numbers(chosen.batch), numbers(chosen.rest)) == ([0, 2], [1])


def test_a_request_larger_than_the_limit_runs_alone() -> None:
    chosen = select([Request(0, rows=9), Request(1)], NOW_S)
    assert (numbers(chosen.batch), numbers(chosen.rest)) == ([0], [1])


def test_a_model_without_a_batch_runs_one_by_one() -> None:
    queue = [Request(number, max_rows=1) for number in range(3)]
    assert numbers(select(queue, NOW_S).batch) == [0]


DTYPES = st.sampled_from([np.float32, np.int64, np.bool_, np.float16])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.lists(st.integers(0, 3), max_size=2), DTYPES)
def test_what_is_joined_comes_apart_as_it_was(rows: list[int], tail: list[int], dtype: type[np.generic]) -> None:
    generator = np.random.default_rng(0)
    requests = [{name: generator.integers(0, 2, (n, *tail)).astype(dtype) for name in ("a", "b")} for n in rows]
    joined = collate(requests)
    assert {array.shape for array in joined.values()} == {(sum(rows), *tail)}
    for request, parts in zip(requests, scatter(list(joined.values()), rows), strict=True):
        for want, got in zip(request.values(), parts, strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def test_text_is_joined_too() -> None:
    requests = [{"t": np.array([["a"]], np.object_)}, {"t": np.array([["bc"], [""]], np.object_)}]
    assert collate(requests)["t"].tolist() == [["a"], ["bc"], [""]]


def test_a_single_request_is_passed_on_without_a_copy() -> None:
    inputs = {"a": np.zeros((2, 2))}
    assert collate([inputs]) is inputs
    (outputs,) = scatter([inputs["a"]], [2])
    assert outputs[0] is inputs["a"]


@pytest.mark.parametrize("shape", [(2,), (4, 1), ()])
def test_an_output_with_another_number_of_rows_is_nobodys(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a run of 3 rows gave an output of shape"):
        scatter([np.zeros(shape)], [1, 2])
