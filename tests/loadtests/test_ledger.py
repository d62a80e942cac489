from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.ledger import Ledger
from turnout_loadtests.reporting.results import NOT_REACHED
from turnout_loadtests.sending.load import OFFLINE, SERVER, SINGLE_STREAM

from tests.loadtests.made import Behaviour, World


def unreached(ledger: Ledger) -> set[tuple[str, int, str]]:
    """Device, batch and reason of what wasn't reached."""
    gaps = ledger.unreached("interrupted")
    assert {gap.kind for gap in gaps} <= {NOT_REACHED}
    return {(gap.device, gap.batch, gap.reason) for gap in gaps}


def interrupted(**changes: object) -> Ledger:
    """A comparison by the standard profile (6 rounds) that was interrupted."""
    usual = {"batches": (1, 8), "window_s": 0.5, "loads_per_s": (50.0, 200.0), "target_ms": 50.0}
    return World({"cpu": Behaviour(ms=2.0)}, **{**usual, **changes}).ledger()  # type: ignore[arg-type]


SEARCH = ("cpu", 1, "the search for what it carries within 50 ms; interrupted")


def test_each_load_and_each_search_that_was_not_reached_is_named() -> None:
    ledger = interrupted(rounds=3)  # a device alone has half of the rounds
    assert unreached(ledger) == {SEARCH}
    ledger.cells[:] = [cell for cell in ledger.cells if cell.rate_per_s != 200.0 or cell.round == 1]
    assert unreached(ledger) == {SEARCH, ("cpu", 1, "Server at 200/s: 1 of 3 rounds; interrupted")}
    ledger.cells[:] = [cell for cell in ledger.cells if cell.rate_per_s != 50.0]
    assert len(unreached(ledger)) == 3


def test_what_came_to_its_end_is_not_named() -> None:
    found = Capacity("resnet50", "cpu", 1, 50.0, 80.0, 84.0, 9)
    assert unreached(interrupted(rounds=3, capacities=[found])) == set()


def test_trials_of_a_search_are_no_rounds() -> None:
    ledger = interrupted(rounds=0, loads_per_s=(), batches=(1,))
    expected = {SEARCH, *(("cpu", 1, f"{name}: 0 of 3 rounds; interrupted") for name in (SINGLE_STREAM, OFFLINE))}
    assert {each for each in unreached(ledger) if each[1] == 1} == expected


def test_models_that_were_not_asked_about_yet_are_named_as_a_whole() -> None:
    ledger = interrupted(rounds=3, models=("add", "later"))
    del ledger.models["later"]
    assert ("", 0, "interrupted") in unreached(ledger)
    ledger.models.clear()
    assert [gap.model for gap in ledger.unreached("interrupted")] == ["add", "later"]


def test_one_request_that_fills_a_device_is_an_experiment_of_its_own() -> None:
    ledger = interrupted(rounds=3, in_flight=1, loads_per_s=(), batches=(1,))
    found = {each.key.scenario: each.rounds for each in ledger.results(complete=True).summaries}
    assert found == {SINGLE_STREAM: 3, OFFLINE: 3}
    assert SERVER not in found
