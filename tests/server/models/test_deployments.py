from collections import Counter
from collections.abc import Mapping

import numpy as np
from turnout_server.core.model_config import Queue
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling.batching import REVIEW_RUNS
from turnout_server.scheduling.exploration import LONG_PAUSE, SHORT_PAUSE

from tests.server.fakes import deployment, profile

#: What a run takes on a device where a row gets no cheaper beyond four together.
FOUR = {1: 4000, 2: 4000, 4: 4000, 8: 8000}


def test_the_cap_is_what_the_profile_shows_to_be_worth_joining() -> None:
    assert deployment(profile=profile(FOUR)).effective_max_batch == 4
    assert deployment(profile=profile({1: 1000, 2: 2000, 4: 4000, 8: 8000})).effective_max_batch == 1
    assert deployment(profile=profile({1: 1000, 2: 1000, 4: 1000, 8: 1000})).effective_max_batch == 8


def test_before_anything_is_measured_the_cap_is_the_models_limit() -> None:
    assert deployment(max_rows=8).effective_max_batch == 8


def test_a_latency_target_bounds_the_cap() -> None:
    assert deployment(profile=profile({1: 1000, 2: 1100, 4: 1300, 8: 1700}), target_us=1200).effective_max_batch == 2


def test_the_cap_is_worked_out_anew_after_so_many_runs() -> None:
    model = deployment(profile=profile(FOUR))
    assert model.effective_max_batch == 4
    for _ in range(REVIEW_RUNS - 1):
        model.observe(8, 4000)
    assert model.effective_max_batch == 4
    model.observe(8, 4000)
    assert model.effective_max_batch == 8


def test_looking_at_the_batch_size_changes_nothing() -> None:
    model = deployment(profile=profile({rows: 1000 for rows in (1, 2, 4, 8, 16)}), max_rows=16)
    assert {model.effective_max_batch for _ in range(20 * SHORT_PAUSE * REVIEW_RUNS)} == {16}
    assert model.profile.total_runs == 25


def saturated(model: Deployment, takes_us: Mapping[int, float], periods: int) -> Counter[int]:
    """How many runs of each size are made while there is always enough to fill one."""
    made: Counter[int] = Counter()
    for _ in range(periods * REVIEW_RUNS):
        rows = model.effective_max_batch
        model.observe(rows, takes_us[rows])
        made[rows] += 1
    return made


def test_what_is_tried_to_see_whether_it_is_better_by_now_does_not_show_in_a_99th_percentile() -> None:
    model = deployment(profile=profile(FOUR))
    saturated(model, FOUR, SHORT_PAUSE)
    made = saturated(model, FOUR, 4 * LONG_PAUSE)

    assert made[8] == made[2] == 2 * REVIEW_RUNS
    assert made[1] == 0
    assert made[8] * 8 < 0.01 * sum(rows * runs for rows, runs in made.items())


def test_a_batch_that_something_else_slowed_down_when_it_was_measured_is_used_once_that_is_over() -> None:
    takes_us = {1: 1000, 2: 1100, 4: 1300, 8: 1700}
    model = deployment(profile=profile({1: 1000, 2: 2200, 4: 4400, 8: 8800}))

    assert model.effective_max_batch == 1
    saturated(model, takes_us, 16 * SHORT_PAUSE)
    assert model.effective_max_batch == 8


def test_a_size_that_was_never_run_or_never_in_time_is_not_tried() -> None:
    unknown = deployment(profile=profile({1: 1000, 2: 2000}))
    late = deployment(profile=profile({1: 1000, 2: 1100, 4: 1300, 8: 1700}), target_us=1200)

    assert set(saturated(unknown, {1: 1000, 2: 2000}, 4 * LONG_PAUSE)) == {1, 2}
    assert set(saturated(late, {1: 1000, 2: 1100}, 4 * LONG_PAUSE)) == {1, 2}


def test_a_preferred_batch_size_is_never_above_the_cap() -> None:
    model = deployment(profile=profile(FOUR), queue=Queue(preferred_rows=(2, 6)))
    assert (model.preferred_rows, model.effective_max_batch) == ((2, 6), 6)


def test_requests_that_may_not_share_a_run_neither_are_joined_nor_split() -> None:
    model = deployment(profile=profile(FOUR), batchable=False, max_rows=1)
    assert (model.effective_max_batch, model.chunks(8)) == (1, [8])


def test_requests_above_the_cap_are_split() -> None:
    model = deployment(profile=profile(FOUR))
    assert (model.chunks(7), model.chunks(4)) == ([4, 3], [4])


def test_the_queue_sees_seconds() -> None:
    model = deployment(queue=Queue(max_delay_us=1500), target_us=20_000)
    assert (model.max_delay_s, model.target_s) == (0.0015, 0.02)
    assert deployment().target_s is None


def test_a_run_must_begin_early_enough_for_the_fastest_to_be_over_in_time() -> None:
    model = deployment(profile=profile({1: 250_000}))
    assert model.start_by_s(1, None, None) is None
    assert model.start_by_s(1, None, 10.0) == 10.0
    assert model.start_by_s(1, 10.0, None) == 9.75
    assert model.start_by_s(1, 10.0, 9.5) == 9.5
    assert deployment().start_by_s(1, 10.0, None) is None  # never measured


def test_a_request_that_is_split_holds_the_device_for_no_longer_than_its_longest_run() -> None:
    model = deployment(profile=profile({1: 3_000, 2: 6_000, 8: 24_000}))

    assert model.effective_max_batch == 1
    assert model.longest_chunk_us(5) == 3_000
    assert deployment(profile=profile({})).longest_chunk_us(5) == 0


def test_values_that_a_device_computes_otherwise_are_refused_there() -> None:
    model = deployment(narrowed=("ids",), reduces=True)
    assert model.looks_at_values
    refused = {"large": np.array([2**31]), "small": np.array([-(2**31) - 1]), "empty": np.empty((2, 0), np.int64)}
    texts = {name: str(model.refusal({"ids": array, "x": np.ones(2)})) for name, array in refused.items()}
    assert "computes integers in 32 bits, and input 'ids' has the value 2147483648" in texts["large"]
    assert "-2147483649" in texts["small"]
    assert "may reduce an empty tensor to another value, and input 'ids' is empty" in texts["empty"]
    assert model.refusal({"ids": np.array([2**31 - 1]), "x": np.ones(2)}) is None
    assert not deployment().looks_at_values
