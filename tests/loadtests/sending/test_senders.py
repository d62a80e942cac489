"""Sending processes, against servers of known latency."""

import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.judging.cells import Surroundings, summarise
from turnout_loadtests.sending.load import OPEN, Load
from turnout_loadtests.sending.samples import OK
from turnout_loadtests.sending.senders import SenderDied, Senders

from tests.loadtests.conftest import Devices, Fake


@pytest.fixture(scope="module")
def senders() -> Iterator[Senders]:
    with Senders(1) as running:
        yield running


def load(host: str, **changes: object) -> Load:
    return Load(**{"host": host, "model": "add", "device": "cpu", "warm_up_s": 0.3, "duration_s": 1.0, **changes})  # type: ignore[arg-type]


def test_a_closed_load_keeps_its_requests_in_flight(senders: Senders, fake: str) -> None:
    given = load(fake, device="slow", in_flight=6, duration_s=2.0)
    senders.prepare(given)
    found = senders.send(given)
    assert found.in_flight == pytest.approx(6, rel=0.05)
    cell = summarise(given, found, Surroundings(), "")
    assert cell.service.p50_ms == pytest.approx(500, rel=0.1)
    assert (cell.failures, cell.answered_by) == (0, {"slow": cell.answers})


def test_the_batch_and_what_the_server_states_are_recorded(senders: Senders, fake: str) -> None:
    given = load(fake, batch=3)
    senders.prepare(given)
    found = senders.send(given)
    assert set(found.batch_size) == {3}
    assert np.median(found.compute_us) >= 2000
    assert set(found.precision) == {"fp32"}


def test_an_open_load_arrives_at_its_rate_whatever_the_answers_do(senders: Senders, fake: str) -> None:
    given = load(fake, device="slow", arrival=OPEN, rate_per_s=100.0, in_flight=200, duration_s=3.0)
    senders.prepare(given)
    cell = summarise(given, senders.send(given), Surroundings(), "")
    assert cell.requests == pytest.approx(300, rel=0.25)
    assert cell.in_flight_mean > 35  # a closed load would wait for its answers instead
    assert cell.dropped == 0


def test_an_open_load_drops_what_would_be_too_many_in_flight_and_counts_it(senders: Senders, fake: str) -> None:
    given = load(fake, device="slow", arrival=OPEN, rate_per_s=100.0, in_flight=10)
    senders.prepare(given)
    found = senders.send(given)
    assert found.dropped > 40
    assert found.in_flight <= 10.5


def test_a_frozen_server_shows_in_the_latencies_of_an_open_load(senders: Senders, serve: Callable[[Devices], Fake]) -> None:
    """A closed load of 20 clients would send 20 requests in that second; here all of its 200 are late."""
    server = serve({"cpu": {"ms": 2}})
    given = load(server.address, arrival=OPEN, rate_per_s=200.0, in_flight=400, duration_s=6.0)
    senders.prepare(given)
    timers = [threading.Timer(2.0, server.signal, [signal.SIGSTOP]), threading.Timer(3.0, server.signal, [signal.SIGCONT])]
    for timer in timers:
        timer.start()
    cell = summarise(given, senders.send(given), Surroundings(), "")
    assert cell.response.p90_ms is not None
    assert cell.response.p90_ms >= 80
    assert cell.response.max_ms is not None
    assert cell.response.max_ms > 800
    assert cell.requests == pytest.approx(1200, rel=0.15)


def test_fast_calls_are_not_held_up_by_slow_ones_in_the_same_process(
    senders: Senders, serve: Callable[[Devices], Fake]
) -> None:
    """With blocking calls, ten slow ones in flight would hold all threads of gevent's pool, and fast ones would wait 450 ms."""
    server = serve({"cpu": {"ms": 2}, "mixed": {"ms": 2, "slow_share": 0.5, "slow_ms": 500}})
    alone = load(server.address, in_flight=2)
    senders.prepare(alone)
    lone_ms = summarise(alone, senders.send(alone), Surroundings(), "").service.p50_ms
    mixed = load(server.address, device="mixed", in_flight=40, duration_s=3.0)
    senders.prepare(mixed)
    found = senders.send(mixed)
    took_ms = (found.ended_s - found.began_s) * 1e3
    fast = took_ms[found.compute_us < 100_000]
    assert (found.compute_us > 400_000).sum() > 40
    assert lone_ms is not None
    assert np.median(fast) < max(2 * lone_ms, 100.0)  # the latter for a machine that is busy itself


def test_a_stream_is_recorded_like_calls(senders: Senders, fake: str) -> None:
    given = load(fake, in_flight=4, streaming=True)
    senders.prepare(given)
    cell = summarise(given, senders.send(given), Surroundings(), "")
    assert cell.answers > 30
    assert (cell.failures, cell.answered_by) == (0, {"cpu": cell.answers})
    assert cell.service.p50_ms is not None
    assert 2 <= cell.service.p50_ms < 100


def test_a_load_ends_early_once_it_is_clear_that_it_misses_its_target(senders: Senders, fake: str) -> None:
    given = load(fake, device="slow", in_flight=4, duration_s=20.0, target_ms=50.0, misses_allowed=3)
    senders.prepare(given)
    cell = summarise(given, senders.send(given), Surroundings(), "")
    assert cell.stopped_early
    assert cell.duration_s < 5


def test_a_request_still_in_flight_at_its_deadline_is_a_failure_not_a_short_latency(senders: Senders, fake: str) -> None:
    given = load(fake, device="slow", timeout_s=0.2)
    senders.prepare(given)
    cell = summarise(given, senders.send(given), Surroundings(), "")
    assert set(cell.failures_by_code) == {"DEADLINE_EXCEEDED"}
    assert cell.service.p50_ms is None


def test_calls_without_inference_measure_the_floor(senders: Senders, fake: str) -> None:
    given = load(fake, model="", device="", floor=True, in_flight=4)
    senders.prepare(given)
    cell = summarise(given, senders.send(given), Surroundings(), "")
    assert cell.failures == 0
    assert cell.answers > 50


def test_an_unknown_model_is_an_error_and_the_next_load_goes_on(senders: Senders, fake: str) -> None:
    with pytest.raises(LoadTestError, match="unknown model 'nope'"):
        senders.prepare(load(fake, model="nope"))
    senders.prepare(load(fake))
    assert (senders.send(load(fake)).code == OK).all()


def test_several_processes_share_a_load(fake: str) -> None:
    given = load(fake, device="slow", in_flight=5, duration_s=1.5)
    with Senders(2) as both:
        both.prepare(given)
        found = both.send(given)
        assert found.processes == 2
        assert found.in_flight == pytest.approx(5, rel=0.1)


def test_a_sender_that_died_is_noticed(fake: str) -> None:
    with Senders(1) as mortal:
        mortal.prepare(load(fake))
        for process in mortal._processes:
            process.kill()
        with pytest.raises(SenderDied, match="a sending process"):
            mortal.send(load(fake))
