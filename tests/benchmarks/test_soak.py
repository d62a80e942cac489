"""What the soak test says of a server: growth by a line through its readings, and limits for descriptors and threads."""

import pytest

from benchmarks.soak.verdict import Reading, growth_mib, problems


def readings(growth_mib: float, warm_up_mib: float = 0.0, descriptors: float = 0.0, threads: float = 0.0) -> list[Reading]:
    """Forty readings of a server that grows by so many MiB, descriptors and threads over a million requests."""
    return [
        Reading(
            requests=number * 100_000,
            at_s=number * 10.0,
            rss_mib=100 + growth_mib * number / 10 + (warm_up_mib if number > 5 else 0) + (number % 3) * 0.2,
            descriptors=round(20 + descriptors * number / 10),
            threads=round(10 + threads * number / 10),
        )
        for number in range(40)
    ]


@pytest.mark.parametrize("grows", [0.0, 4.0, -3.0])
def test_a_server_within_the_limit_holds(grows: float) -> None:
    assert growth_mib(readings(grows)) == pytest.approx(grows, abs=0.3)
    assert problems(readings(grows)) == []


def test_a_leak_is_named_with_its_size() -> None:
    assert problems(readings(60.0)) == ["memory grows by 60.0 MiB per 1,000,000, and 5 is allowed"]
    assert problems(readings(60.0), per=10_000) == []


def test_what_caches_take_at_the_start_is_no_leak() -> None:
    assert problems(readings(0.0, warm_up_mib=300.0)) == []


def test_descriptors_and_threads_that_grow_are_named() -> None:
    found = problems(readings(0.0, descriptors=40, threads=10))
    assert [text.split()[0] for text in found] == ["descriptors", "threads"]


@pytest.mark.parametrize("several", [readings(0.0)[:1], [Reading(5, 0.0, 1.0, 1, 1)] * 8])
def test_readings_without_requests_between_them_say_nothing(several: list[Reading]) -> None:
    with pytest.raises(ValueError, match=r"nothing about growth|no requests"):
        growth_mib(several)
