"""Every reason for which a cell can't be used, or only as a bound; and that a good cell passes."""

from dataclasses import replace
from typing import Any

import pytest
from turnout_loadtests.judging.cells import INVALID, LIMITED, VALID, Cell, ClientUse
from turnout_loadtests.judging.validity import CHECKS, Floor, Setting, judged, overloaded
from turnout_loadtests.measuring.machine import MachineUse
from turnout_loadtests.sending.load import OPEN

from tests.loadtests.made import QUIET, Behaviour, cell


def reason(found: Cell) -> str:
    assert found.state == INVALID, found
    return found.reasons[0]


def test_a_cell_with_nothing_to_object_to_is_valid() -> None:
    found = cell()
    assert (found.state, found.reasons, found.headroom) == (VALID, [], 1.0)


@pytest.mark.parametrize(("share", "state"), [(0.0, VALID), (0.02, INVALID), (0.51, INVALID), (1.0, INVALID)])
def test_failures_above_one_percent_are_invalid_with_the_servers_words(share: float, state: str) -> None:
    found = cell(Behaviour(fails_share=share))
    assert found.state == state
    if state == INVALID:
        assert "requests failed: RESOURCE_EXHAUSTED: the queue is full" in found.reasons[0]


def test_answers_of_another_device_are_invalid() -> None:
    assert reason(cell(Behaviour(answers_as="cpu"), device="cuda")).startswith("asked for cuda, answered")


@pytest.mark.parametrize(
    ("asked", "answered", "devices", "meant"),
    [
        ("cuda", "cuda:0", (), True),
        ("auto", "cuda:0", (), True),
        ("cuda,cpu", "cpu", (), True),
        ("cpu", "cpu:fast", ("cpu", "cpu:fast"), False),  # `cpu` is a device of its own here
        ("cpu", "cpu:fast", ("cpu:slow", "cpu:fast"), True),
        ("cuda:1", "cuda:0", (), False),
    ],
)
def test_a_kind_means_each_of_its_devices_and_a_name_only_itself(
    asked: str, answered: str, devices: tuple[str, ...], meant: bool
) -> None:
    raw = replace(cell(device=asked), answered_by={answered: 390}, state=VALID)
    assert (judged(raw, Setting(devices=frozenset(devices))).state == VALID) is meant


def test_a_precision_that_was_asked_for_must_be_the_one_that_answered() -> None:
    answered = Behaviour(answers_as="cpu", precision="fp32")
    assert "asked for int8, answered in fp32" in reason(cell(answered, device="cpu+int8"))
    assert cell(replace(answered, precision="int8"), device="cpu+int8").state == VALID
    assert cell(replace(answered, answers_as="cuda"), device="cpu").state == INVALID


def test_a_server_that_does_not_say_who_answered_is_not_believed() -> None:
    assert "doesn't say which device answered" in reason(cell(Behaviour(answers_as="unstated")))
    assert cell(Behaviour(answers_as="unstated"), device="auto").state == VALID


@pytest.mark.parametrize("in_flight_mean", [0.2, 1.3, 3.0])
def test_requests_in_flight_must_be_as_planned_and_follow_littles_law(in_flight_mean: float) -> None:
    assert "in flight" in reason(judged(replace(cell(), in_flight_mean=in_flight_mean), Setting()))


def test_a_request_that_takes_longer_than_its_window_has_no_rate() -> None:
    for ms in (900.0, 5000.0):
        found = cell(Behaviour(ms=ms), duration_s=4.0)
        assert reason(found).endswith("measure for longer")
        assert found.requests_per_s is None


def test_a_rate_that_changes_within_the_window_is_not_steady() -> None:
    unsteady = replace(cell(), part_rates=[100.0, 100.0, 40.0])
    assert reason(judged(unsteady, Setting())).startswith("not steady: 100, 100, 40.0 requests/s")
    by_chance = replace(cell(), part_rates=[7.5, 9.0, 6.75])  # 10, 12 and 9 requests
    assert judged(by_chance, Setting()).state == VALID


@pytest.mark.parametrize(
    ("use", "state", "headroom"),
    [
        (replace(QUIET, other_work_percent=8.0), VALID, 1.0),
        (replace(QUIET, other_work_percent=20.0), LIMITED, 1.25),
        (replace(QUIET, other_work_percent=20.0, steal_percent=20.0), LIMITED, 1 / 0.6),
        (replace(QUIET, other_work_percent=60.0), INVALID, None),
        (replace(QUIET, steal_percent=60.0), INVALID, None),
        (replace(QUIET, pressure_percent=90.0), VALID, 1.0),  # of the test's own making: nobody else had work
        (MachineUse(pressure_percent=90.0), INVALID, None),
        (MachineUse(), VALID, 1.0),
    ],
)
def test_work_of_others_during_the_cell_limits_it_or_makes_it_invalid(
    use: MachineUse, state: str, headroom: float | None
) -> None:
    found = cell(Behaviour(machine=use))
    assert found.state == state
    assert found.headroom == (pytest.approx(headroom) if headroom else None)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (ClientUse(cpu=0.95), "each sending process used 95% of a core"),
        (ClientUse(wait=0.3), "the senders waited for a processor 30% of the time"),
    ],
)
def test_a_sender_at_its_limit_makes_the_figures_a_bound(use: ClientUse, said: str) -> None:
    raw = cell(Behaviour(ms=2.0, client_ms=1.0))
    found = judged(replace(raw, client=use), Setting())
    assert (found.state, found.reasons[0]) == (LIMITED, said)
    assert found.headroom == pytest.approx(2.0, rel=0.2)  # half of the time was the client's


def test_a_busy_sender_does_not_matter_where_the_server_accounts_for_the_latency() -> None:
    raw = cell(Behaviour(ms=100.0, client_ms=1.0))
    assert judged(replace(raw, client=replace(raw.client, cpu=0.95)), Setting()).state == VALID


def test_a_rate_near_the_measured_ceiling_of_the_senders_is_a_bound() -> None:
    """Processor time alone misses it: a client that waits on its network uses little of it."""
    fast = Behaviour(ms=1.0, client_ms=0.5)
    assert cell(fast, floor=Floor(0.1, 1200.0)).state == LIMITED
    assert cell(fast, floor=Floor(0.1, 12000.0)).state == VALID
    assert cell(fast, floor=Floor(0.6, 12000.0)).state == LIMITED  # most of the latency is there without inference


def test_late_requests_of_an_open_load_are_a_bound() -> None:
    raw = cell(Behaviour(client_ms=3.0), arrival=OPEN, rate_per_s=50.0, in_flight=64)
    late = replace(raw, client=replace(raw.client, lag_p99_ms=40.0))
    assert "sent 40 ms late" in judged(late, Setting()).reasons[0]


def at_a_rate(rate: float, in_flight: int, ms: float = 10.0, **changes: Any) -> Cell:
    """A device that answers one request after another, at a rate; in a window in which a p99 can't be told."""
    shown = {"duration_s": 4.0, "target_ms": 2000.0, **changes}
    return cell(Behaviour(ms=ms, queues=True), arrival=OPEN, rate_per_s=rate, in_flight=in_flight, **shown)


def test_requests_that_were_not_sent_have_no_latency() -> None:
    found = at_a_rate(300.0, 64)
    assert reason(found).startswith(f"overloaded: {found.dropped} of {found.requests + found.dropped} requests weren't sent")
    assert found.headroom is None


@pytest.mark.parametrize(("rate", "behind"), [(30.0, False), (70.0, False), (130.0, True), (300.0, True)])
def test_a_device_that_falls_behind_a_rate_is_overloaded_without_drops_too(rate: float, behind: bool) -> None:
    found = at_a_rate(rate, 10_000)
    assert (found.state, found.dropped) == (VALID, 0)
    assert any(text.startswith("overloaded: ") and "requests/s were answered" in text for text in found.reasons) is behind


def test_rounds_that_each_fall_behind_a_little_do_so_together() -> None:
    rounds = [at_a_rate(106.0, 10_000, seed=seed, duration_s=8.0) for seed in range(1, 9)]
    assert overloaded(rounds)
    assert not overloaded([at_a_rate(60.0, 10_000, seed=seed) for seed in range(1, 9)])
    assert not overloaded([cell(in_flight=64)])  # requests in flight, not a rate


def test_a_load_that_falls_behind_while_others_take_the_cores_is_disturbed() -> None:
    raw = at_a_rate(300.0, 64)
    found = judged(replace(raw, machine=replace(QUIET, other_work_percent=30.0)), Setting())
    assert reason(found).startswith("disturbed: others took 30 % of the cores' time, and ")


def test_the_senders_share_of_the_devices_cores_is_headroom() -> None:
    raw = cell(Behaviour(client_cpu=0.5))
    found = judged(raw, Setting(shares_cores=True, cores=2))
    assert found.state == VALID
    assert found.headroom == pytest.approx(1 / 0.75)


def test_the_first_of_several_reasons_is_that_of_the_failures() -> None:
    """Failures come before who answered, and so on: a later check would be wrong about what an earlier one found."""
    assert [check.__name__ for check in CHECKS] == [
        "_few_failures", "_right_device", "_in_flight_as_planned", "_enough_answers", "_steady", "_undisturbed",
    ]  # fmt: skip
    wrong = cell(Behaviour(fails_share=0.5, answers_as="other", machine=replace(QUIET, other_work_percent=90.0)))
    assert "failed" in reason(wrong)
