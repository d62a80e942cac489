import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.devicenames import entries_of
from turnout_server.errors import FailedPrecondition, InvalidRequest, ServingError, Unavailable
from turnout_server.routing import Candidate, choose

CPU, SLOW_CPU = Candidate("cpu", "cpu", predicted_us=300), Candidate("cpu:slow", "cpu", predicted_us=900)
GPU0, GPU1 = Candidate("cuda:0", "cuda", predicted_us=200), Candidate("cuda:1", "cuda", predicted_us=100)
ALL = [CPU, SLOW_CPU, GPU0, GPU1]
MISSING = {"cuda": "no NVIDIA driver is loaded"}

PROBLEMS = st.sampled_from([None, FailedPrecondition("not allowed"), Unavailable("restarting", 500)])
HOSTS = st.builds(
    lambda problems, times: [
        Candidate(name, name.split(":")[0], problem, time)
        for name, problem, time in zip(["cpu", "cpu:slow", "cuda:0", "cuda:1"], problems, times, strict=True)
    ],
    st.lists(PROBLEMS, min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=4, max_size=4),
)
ENTRIES = st.sampled_from(["auto", "cpu", "cpu:slow", "cuda", "cuda:0", "cuda:1", "cuda:9"])


@given(ENTRIES.filter(lambda entry: entry != "auto"), HOSTS)
def test_a_named_device_is_never_moved(asked: str, host: list[Candidate]) -> None:
    try:
        route = choose(asked, host, {})
    except ServingError:
        return
    assert asked in (route.device, route.device.split(":")[0])
    assert route.reason == "requested"


@given(st.lists(ENTRIES, min_size=1, max_size=4), HOSTS)
def test_a_request_runs_on_a_device_without_a_problem_or_nowhere(entries: list[str], host: list[Candidate]) -> None:
    asked = ",".join(entries)
    usable = {c.name for c in host if c.problem is None}
    wanted = {c.name for c in host if any(entry in ("auto", c.name, c.kind) for entry in entries)}
    try:
        assert choose(asked, host, {}).device in usable & wanted
    except (FailedPrecondition, Unavailable):
        exact = {c.name for c in host}
        reachable = {c.name for c in host for e in entries if e in ("auto", c.name) or (e not in exact and e == c.kind)}
        assert not usable & reachable


@pytest.mark.parametrize(
    ("asked", "device", "reason"),
    [
        ("auto", "cuda:1", "earliest"),
        ("cpu", "cpu", "requested"),
        ("cuda", "cuda:1", "requested"),
        ("cuda:0", "cuda:0", "requested"),
        ("cuda:9,cuda:0,cpu", "cuda:0", "preference"),
        ("cuda:9,auto", "cuda:1", "preference"),
    ],
)
def test_each_way_to_ask_has_its_reason(asked: str, device: str, reason: str) -> None:
    route = choose(asked, ALL, {})
    assert (route.device, route.reason) == (device, reason)


def test_an_exact_name_wins_over_a_kind() -> None:
    assert choose("cpu", [Candidate("cpu:fast", "cpu", predicted_us=1), CPU], {}).device == "cpu"


def test_auto_with_one_device_says_so() -> None:
    assert choose("auto", [CPU], MISSING).reason == "only-device"


def test_a_device_that_was_never_measured_is_tried_last() -> None:
    assert choose("auto", [Candidate("cuda:0", "cuda"), SLOW_CPU], {}).device == "cpu:slow"
    assert choose("auto", [Candidate("cuda:0", "cuda")], {}).device == "cuda:0"


@pytest.mark.parametrize("asked", ["tpu", "", "cpu,tpu", "cuda:"])
def test_a_malformed_name_is_an_invalid_request_that_lists_what_exists(asked: str) -> None:
    with pytest.raises(InvalidRequest, match=r"this server has: cpu, cpu:slow, cuda:0, cuda:1; or ask for 'auto'"):
        choose(asked, ALL, {})


@pytest.mark.parametrize(
    ("asked", "why"), [("cuda", MISSING["cuda"]), ("cuda:3", MISSING["cuda"]), ("cpu:9", "no device of that name")]
)
def test_a_device_that_is_not_here_is_a_failed_precondition_with_the_reason(asked: str, why: str) -> None:
    with pytest.raises(FailedPrecondition, match=why):
        choose(asked, [CPU], MISSING)


def test_a_list_fails_with_the_last_status_and_all_reasons() -> None:
    restarting = Candidate("cuda:0", "cuda", Unavailable("it restarts", 500))
    forbidden = Candidate("cpu", "cpu", FailedPrecondition("not allowed on cpu"))
    with pytest.raises(Unavailable, match="not allowed on cpu; it restarts") as caught:
        choose("cpu,cuda:0", [forbidden, restarting], {})
    assert caught.value.pushback_ms == 500
    with pytest.raises(FailedPrecondition, match="it restarts; not allowed on cpu"):
        choose("cuda:0,cpu", [forbidden, restarting], {})


def test_a_refusal_leaves_no_frames_behind() -> None:
    problem = FailedPrecondition("not allowed")
    with pytest.raises(FailedPrecondition):
        choose("cpu", [Candidate("cpu", "cpu", problem)], {})
    assert problem.__traceback__ is None


@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_spaces_around_entries_do_not_count(entries: list[str]) -> None:
    assert entries_of(" , ".join(entries)) == entries
