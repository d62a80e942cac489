"""A short run of `make fuzz`: the decoder and a server, each with mutated messages."""

import itertools
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from tests.servers import RunningServer, running


@pytest.fixture(scope="module", params=["completion-queue", "aio"])
def fuzzed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("fuzz")
    fuzz.save_repository(root)
    with running(root, transport=request.param) as server:
        yield server


def test_the_seeds_are_valid(fuzzed: RunningServer) -> None:
    outcomes, wrong = fuzz.fuzz_server(fuzzed.address, iter(fuzz.seeds()), time.monotonic() + 60, limit=len(fuzz.seeds()))
    assert (dict(outcomes), wrong) == ({"OK": len(fuzz.seeds())}, [])


def test_mutated_messages_never_crash_the_decoder() -> None:
    outcomes = fuzz.fuzz_decoder(fuzz.cases(0), time.monotonic() + 60, limit=5000)
    assert outcomes.keys() == {"decoded", "InvalidRequest"}


def test_mutated_messages_get_a_status_that_blames_the_client(fuzzed: RunningServer) -> None:
    outcomes, wrong = fuzz.fuzz_server(fuzzed.address, fuzz.cases(0), time.monotonic() + 60, limit=500)
    assert wrong == []
    assert outcomes["OK"] < outcomes.total()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_get_a_status_that_blames_the_client(fuzzed: RunningServer, message: bytes) -> None:
    assert fuzz.fuzz_server(fuzzed.address, iter([message]), time.monotonic() + 60, limit=1)[1] == []


def test_a_server_that_answers_unknown_would_be_noticed() -> None:
    assert "UNKNOWN" not in fuzz.ALLOWED
    assert len(set(itertools.islice(fuzz.cases(0), 100))) > 90
