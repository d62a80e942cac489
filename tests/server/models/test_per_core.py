from turnout_server.models.per_core import PerCore
from turnout_server.scheduling.batching import REVIEW_RUNS

from tests.server.fakes import AddingSession, profile


def test_a_batch_has_as_many_rows_as_runs_have_shown_to_be_worth_it() -> None:
    way = PerCore(AddingSession(), 2, profile({1: 100.0, 2: 110.0, 4: 400.0}), max_rows=4)
    assert way.effective_max_batch == 2
    for _ in range(10 * REVIEW_RUNS):
        way.observe(2, 300.0)
    assert way.effective_max_batch in (1, 4)
    assert way.predict_us(2) > 200  # type: ignore[operator]


def test_twice_the_best_size_is_tried_if_nothing_larger_is_known() -> None:
    assert PerCore(AddingSession(), 2, profile({1: 100.0, 2: 110.0}), max_rows=8).effective_max_batch == 4
    assert PerCore(AddingSession(), 2, profile({1: 100.0, 2: 200.0}), max_rows=8).effective_max_batch == 1
