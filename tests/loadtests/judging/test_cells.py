import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.judging.cells import Cell, Surroundings, answers_needed, summarise
from turnout_loadtests.sending.load import OPEN
from turnout_loadtests.sending.samples import OK, Samples

from tests.loadtests.made import Behaviour, load
from tests.loadtests.made import samples as made

Row = tuple[float, float, str]


def samples(*rows: Row, window_s: tuple[float, float] = (1.0, 11.0), **changes: Any) -> Samples:
    """Samples of requests given as (due_s, ended_s, code)."""
    count = len(rows)
    good = np.array([code == OK for _, _, code in rows], bool)
    return replace(
        Samples(
            due_s=np.array([row[0] for row in rows], np.float64),
            began_s=np.array([row[0] for row in rows], np.float64),
            ended_s=np.array([row[1] for row in rows], np.float64),
            code=np.array([row[2] for row in rows], np.str_),
            device=np.where(good, "cpu", "") if rows else np.array([], np.str_),
            precision=np.where(good, "int8", "") if rows else np.array([], np.str_),
            batch_size=np.where(good, 8, 0) if rows else np.array([], np.int64),
            decode_us=np.full(count, 5),
            queue_us=np.full(count, 10),
            compute_us=np.full(count, 500),
            window_s=np.array(window_s),
            dropped=0,
            in_flight=1.0,
            client_cpu_s=1.0,
            client_wait_s=0.5,
            processes=1,
            texts={},
        ),
        **changes,
    )


def summary(measured: Samples, **changes: Any) -> Cell:
    return summarise(load(batch=4, duration_s=10.0, **changes), measured, Surroundings(), "locust")


def test_failures_never_enter_latency_or_throughput() -> None:
    answered = [(2.0 + i / 100, 2.1 + i / 100, OK) for i in range(100)]
    refused = [(2.0 + i / 100, 2.0001 + i / 100, "UNAVAILABLE") for i in range(900)]
    cell = summary(samples(*answered, *refused))
    assert cell.service.p50_ms == pytest.approx(100)
    assert cell.service.p95_ms == pytest.approx(100)
    assert (cell.requests, cell.failures, cell.failures_by_code) == (1000, 900, {"UNAVAILABLE": 900})
    assert cell.requests_per_s == pytest.approx(10)


def test_requests_of_the_warm_up_are_not_measured() -> None:
    warm_up = [(0.1, 0.9, OK)] * 10 + [(0.2, 0.3, "UNAVAILABLE")]
    cell = summary(samples(*warm_up, *[(2.0, 2.5, OK)] * 30))
    assert (cell.requests, cell.failures, cell.requests_per_s) == (30, 0, 3.0)
    assert cell.service.p50_ms == pytest.approx(500)


def test_throughput_counts_what_ended_in_the_window_and_latency_what_was_due_in_it() -> None:
    into, out = (0.5, 1.5, OK), (10.9, 12.9, OK)
    cell = summary(samples(*[into] * 30, *[out] * 10))
    assert cell.requests == 10
    assert cell.service.p50_ms == pytest.approx(2000)
    assert cell.requests_per_s == pytest.approx(3.0)
    assert cell.in_flight_end == 10


def test_latency_of_an_open_load_counts_from_when_a_request_was_due() -> None:
    late = samples(*[(2.0, 2.5, OK)] * 30)
    cell = summary(replace(late, began_s=late.due_s + 0.4), arrival=OPEN, rate_per_s=3.0)
    assert cell.service.p50_ms == pytest.approx(100)
    assert cell.response.p50_ms == pytest.approx(500)
    assert cell.client.lag_p99_ms is None  # 30 requests are too few for a p99


def test_a_cell_has_rates_of_rows_and_requests_and_the_servers_own_times() -> None:
    cell = summary(samples(*[(2.0, 2.1, OK)] * 40))
    assert (cell.requests_per_s, cell.rows_per_s) == (4.0, 16.0)
    assert (cell.server.queue_us, cell.server.compute_us, cell.server.rows_run_together) == (10, 500, 8)
    assert cell.server.total_mean_us == 515
    assert (cell.answered_by, cell.precisions) == ({"cpu": 40}, {"int8": 40})
    assert cell.busy_share == pytest.approx(40 * 500e-6 * 4 / 8 / 10)  # each answer is half of its run's rows
    assert (cell.client.cpu, cell.client.wait) == (0.1, 0.05)


def test_goodput_counts_what_was_in_time() -> None:
    cell = summary(samples(*[(2.0, 2.1, OK)] * 30, *[(3.0, 3.5, OK)] * 10), target_ms=200.0)
    assert cell.goodput_per_s == 3.0


@pytest.mark.parametrize(("answers", "in_flight", "rate"), [(24, 1, None), (25, 1, 2.5), (30, 8, None), (40, 8, 4.0)])
def test_a_rate_needs_enough_answers(answers: int, in_flight: int, rate: float | None) -> None:
    assert summary(samples(*[(2.0, 2.1, OK)] * answers), in_flight=in_flight).requests_per_s == rate
    assert answers >= answers_needed(in_flight) or rate is None


@pytest.mark.parametrize("window_s", [(1.0, 11.0), (math.inf, math.inf), (math.inf, 3.0), (3.0, 3.0)])
def test_an_empty_measurement_has_no_numbers(window_s: tuple[float, float]) -> None:
    cell = summary(samples(window_s=window_s))
    assert (cell.requests, cell.requests_per_s, cell.service.p50_ms, cell.server.queue_us) == (0, None, None, None)


def test_a_load_that_ended_before_its_time_says_so() -> None:
    assert summary(samples((1.5, 1.6, OK), window_s=(1.0, 4.0))).stopped_early
    assert not summary(samples((1.5, 1.6, OK))).stopped_early


def test_names_of_files_tell_cells_apart() -> None:
    behaviour, chance = Behaviour(), np.random.default_rng(1)
    first, second = (
        summarise(given, made(given, behaviour, chance), Surroundings(), "", 1, "2026-01-02T03:04:05.678")
        for given in (load(device="cuda:0"), load(device="cuda:0", batch=8, in_flight=2))
    )
    assert first.file_name == "resnet50-cuda_0-SingleStream-b1-n1-r1-030405678"
    assert second.file_name == "resnet50-cuda_0-Offline-b8-n2-r1-030405678"


@given(st.lists(st.tuples(st.floats(0, 12), st.floats(0, 3), st.sampled_from([OK, "CANCELLED"])), max_size=60))
def test_every_request_in_the_window_counts_as_answered_or_failed(rows: list[Row]) -> None:
    cell = summary(samples(*[(due, due + took, code) for due, took, code in rows]))
    begun = [code for due, _, code in rows if 1 <= due < 11]
    assert cell.requests == len(begun)
    assert cell.failures == begun.count("CANCELLED") == sum(cell.failures_by_code.values())
    assert sum(cell.answered_by.values()) == begun.count(OK)
