"""The measurement that is read from a load generator's log, for logs with a known rate and known latencies."""

import pytest

from benchmarks.load import reading


def steady(took_s: float, clients: int, seconds: float) -> list[tuple[float, float]]:
    """The answers of a server with as many workers as clients, each of which starts the next request when one ends."""
    answers = []
    for client in range(clients):
        ended_s = took_s * (1 + client / clients)
        while ended_s - took_s < seconds:
            answers.append((ended_s, took_s * 1e3))
            ended_s += took_s
    return answers


@pytest.mark.parametrize("took_s", [0.01, 0.04, 0.07])
def test_the_rate_of_a_slow_model_is_not_biased_by_requests_in_flight_at_either_end(took_s: float) -> None:
    seen = reading(steady(took_s, 4, 1.0), 1.0)

    assert seen.rate == pytest.approx(4 / took_s, rel=0.03)


def test_answers_in_the_first_tenth_and_after_the_load_do_not_count() -> None:
    answers = [(0.05, 900.0), (0.1, 900.0), (0.5, 2.0), (0.6, 4.0), (1.0, 6.0), (1.01, 900.0)]

    seen = reading(answers, 1.0)

    assert (seen.requests, seen.p50_ms) == (6, 4.0)
    assert seen.rate == pytest.approx(3 / 0.9)
    assert 4.0 <= seen.p99_ms <= 6.0


@pytest.mark.parametrize("answers", [[], [(0.5, 450.0)], [(0.05, 50.0), (0.5, 450.0), (1.2, 700.0)]])
def test_too_few_answers_are_an_error(answers: list[tuple[float, float]]) -> None:
    with pytest.raises(RuntimeError, match="measure for longer"):
        reading(answers, 1.0)
