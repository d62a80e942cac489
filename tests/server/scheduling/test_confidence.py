import random

import pytest
from turnout_server.scheduling.confidence import IN_TIME, LEAST, MOST, Confidence


def test_predictions_are_trusted_at_first_and_while_requests_are_in_time() -> None:
    confidence = Confidence()
    for _ in range(100):
        confidence.observe(missed=False)
    assert confidence.factor == LEAST


def test_misses_make_it_cautious_within_limits_and_answers_in_time_less_so() -> None:
    confidence = Confidence()
    for _ in range(1000):
        confidence.observe(missed=True)
    assert confidence.factor == MOST
    for _ in range(5000):
        confidence.observe(missed=False)
    assert confidence.factor == LEAST


@pytest.mark.parametrize("late_below", [1.5, 3.0])
def test_it_settles_where_most_requests_are_in_time(late_below: float) -> None:
    confidence, chance, missed = Confidence(), random.Random("1"), 0
    for number in range(20_000):
        late = confidence.factor < late_below * chance.random() ** 0.2  # the lower the factor, the more are late
        confidence.observe(missed=late)
        missed += late and number >= 2000
    assert missed / 18_000 == pytest.approx(1 - IN_TIME, abs=0.01)
