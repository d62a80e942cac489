import math

from turnout_loadtests.sending.saturation import DWELL_S, Saturation


def ramped(capacity_per_s: float, each_per_s: float = 10.0, p99_ms: float = 5.0, target_ms: float = math.inf) -> list[int]:
    """The numbers of users of a server that answers each user so often, up to its capacity."""
    shape, users, answers, now_s = Saturation(), 1, 0.0, 0.0
    seen: list[int] = []
    while (found := shape.users(now_s, int(answers), p99_ms, target_ms)) is not None:
        if found != users or not seen:
            seen.append(found)
        users = found
        now_s += 1.0
        answers += min(users * each_per_s, capacity_per_s)
        assert now_s < 1000
    return seen


def test_users_are_doubled_until_that_brings_no_more() -> None:
    assert ramped(80.0) == [1, 2, 4, 8, 16]


def test_it_ends_once_the_target_is_missed() -> None:
    assert ramped(80.0, p99_ms=60.0, target_ms=50.0) == [1]


def test_each_number_of_users_stays_for_a_while() -> None:
    shape = Saturation()
    assert {shape.users(at_s, 0, None) for at_s in (0.0, DWELL_S - 1)} == {1}
