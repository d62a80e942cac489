import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.core.device_names import entries_of, kind_of
from turnout_server.core.errors import FailedPrecondition, InvalidRequest, Overloaded, ServingError, Unavailable
from turnout_server.scheduling import routing
from turnout_server.scheduling.arrivals import ArrivalRate
from turnout_server.scheduling.routing import (
    COST,
    ENERGY,
    HYSTERESIS,
    LATENCY,
    OBJECTIVES,
    SAFETY_MARGIN,
    Forecast,
    Preferences,
    Route,
    resolve,
)

#: All route reasons. Each is a metric label, so a new one also needs a change of docs/protocol.md.
REASONS = {"requested", "only-device", "earliest", "cheapest-in-time", "preference", "spill", "retried"}


def idle(name: str, service_us: float | None = None, rate: float | None = None) -> Forecast:
    """An idle device; it was never measured if `service_us` is None."""
    if service_us is None:
        return Forecast(name, rate=rate)
    return busy(name, 0.0, service_us, rate)


def busy(name: str, wait_us: float, service_us: float, rate: float | None = None) -> Forecast:
    """A device that is free after `wait_us`."""
    return Forecast(name, None, wait_us, service_us, service_us, service_us, service_us, rate)


CPU, SLOW_CPU = idle("cpu", 300), idle("cpu:slow", 900)
GPU0, GPU1 = idle("cuda:0", 200), idle("cuda:1", 100)
ALL = [CPU, SLOW_CPU, GPU0, GPU1]
MISSING = {"cuda": "no NVIDIA driver is loaded"}
FULL = Overloaded("Exceeds maximum queue size")
RESTARTING = Unavailable("restarting", 500)


def choose(asked: str, host: list[Forecast], missing: dict[str, str] | None = None, **preferences: Any) -> Route:
    """The route of a request with this `device` on a host with these devices."""
    targets = resolve(asked, tuple(forecast.device for forecast in host))
    return routing.choose(Preferences(targets, **preferences), {forecast.device: forecast for forecast in host}, missing or {})


NAMES = ["cpu", "cpu:slow", "cuda:0", "cuda:1"]
TIMES = st.one_of(st.none(), st.floats(1, 1e6))


@st.composite
def hosts(draw: st.DrawFn) -> list[Forecast]:
    """Four devices in any state; each is measured or not, never in part."""
    host = []
    for name in NAMES:
        problem = draw(st.sampled_from([None, FailedPrecondition("not allowed"), RESTARTING, FULL]))
        rate = draw(st.one_of(st.none(), st.floats(0, 10)))
        service_us, wait_us = draw(TIMES), draw(st.floats(0, 1e6))
        forecast = idle(name, None, rate) if service_us is None else busy(name, wait_us, service_us, rate)
        host.append(forecast._replace(unavailable=problem))
    return host


ENTRIES = st.sampled_from(["auto", "cpu", "cpu:slow", "cuda", "cuda:0", "cuda:1", "cuda:9"])
PREFERENCES = st.fixed_dictionaries(
    {},
    optional={
        "objective": st.sampled_from(OBJECTIVES),
        "deadline_us": st.floats(0, 2e6),
        "target_us": st.floats(0, 2e6),
        "last": st.sampled_from(NAMES),
    },
)


@given(ENTRIES.filter(lambda entry: entry != "auto"), hosts(), PREFERENCES)
def test_a_named_device_is_never_moved(asked: str, host: list[Forecast], preferences: dict[str, Any]) -> None:
    try:
        route = choose(asked, host, **preferences)
    except ServingError:
        return
    assert route.device == asked if asked in NAMES else kind_of(route.device) == asked
    assert route.reason == "requested"


@given(st.lists(ENTRIES, min_size=1, max_size=4), hosts(), PREFERENCES)
def test_every_route_has_a_known_reason_and_its_devices_prediction(
    entries: list[str], host: list[Forecast], preferences: dict[str, Any]
) -> None:
    try:
        route = choose(",".join(entries), host, **preferences)
    except ServingError:
        return
    assert route.reason in REASONS
    assert route.predicted_us == next(forecast.predicted_finish_us for forecast in host if forecast.device == route.device)


@given(st.lists(ENTRIES, min_size=1, max_size=4), hosts(), PREFERENCES)
def test_a_list_goes_to_its_first_entry_that_can_run_the_request(
    entries: list[str], host: list[Forecast], preferences: dict[str, Any]
) -> None:
    able = {forecast.device for forecast in host if _able(forecast, preferences.get("deadline_us"))}
    meant = [names for _, names in resolve(",".join(entries), tuple(NAMES)).entries]
    first = next((able & set(names) for names in meant if able & set(names)), set())
    unpriced = first and preferences.get("objective", LATENCY) != LATENCY and any(forecast.rate is None for forecast in host)
    try:
        assert choose(",".join(entries), host, **preferences).device in first
    except ServingError:
        assert not first or unpriced


def _able(forecast: Forecast, deadline_us: float | None) -> bool:
    if forecast.unavailable is not None:
        return False
    finish_us = forecast.earliest_finish_us if forecast.wait_us == 0.0 else forecast.predicted_finish_us
    return deadline_us is None or finish_us is None or finish_us <= deadline_us


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
def test_each_form_of_the_device_parameter_has_its_reason(asked: str, device: str, reason: str) -> None:
    route = choose(asked, ALL)
    assert (route.device, route.reason) == (device, reason)


def test_an_exact_name_wins_over_a_kind() -> None:
    assert choose("cpu", [idle("cpu:fast", 1), CPU]).device == "cpu"


def test_auto_with_one_usable_device_has_the_reason_only_device() -> None:
    assert choose("auto", [CPU], MISSING).reason == "only-device"
    assert choose("auto", [CPU, GPU0._replace(unavailable=RESTARTING)]).reason == "only-device"


def test_a_device_that_was_never_measured_is_tried_last() -> None:
    assert choose("auto", [idle("cuda:0"), SLOW_CPU]).device == "cpu:slow"
    assert choose("auto", [idle("cuda:0")]) == Route("cuda:0", "only-device", None)


def test_a_busy_device_is_passed_over_for_one_that_finishes_sooner() -> None:
    assert choose("auto", [CPU, busy("cuda:0", wait_us=150, service_us=100)]) == Route("cuda:0", "earliest", 250)
    assert choose("auto", [CPU, busy("cuda:0", wait_us=250, service_us=100)]) == Route("cpu", "spill", 300)


@pytest.mark.parametrize("asked", ["tpu", "", "cpu,tpu", "cuda:"])
def test_an_unknown_device_is_an_invalid_request_and_the_error_lists_the_devices(asked: str) -> None:
    with pytest.raises(InvalidRequest, match=r"this server has: cpu, cpu:slow, cuda:0, cuda:1; or ask for 'auto'"):
        choose(asked, ALL)


@pytest.mark.parametrize(
    ("asked", "why"), [("cuda", MISSING["cuda"]), ("cuda:3", MISSING["cuda"]), ("cpu:9", "no device of that name")]
)
def test_a_missing_device_is_a_failed_precondition_with_the_reason(asked: str, why: str) -> None:
    with pytest.raises(FailedPrecondition, match=why):
        choose(asked, [CPU], MISSING)


def test_a_list_fails_with_the_last_status_and_all_reasons() -> None:
    restarting = Forecast("cuda:0", Unavailable("it restarts", 500))
    forbidden = Forecast("cpu", FailedPrecondition("not allowed on cpu"))
    with pytest.raises(Unavailable, match="not allowed on cpu; it restarts") as caught:
        choose("cpu,cuda:0", [forbidden, restarting])
    assert caught.value.pushback_ms == 500
    with pytest.raises(FailedPrecondition, match="it restarts; not allowed on cpu"):
        choose("cuda:0,cpu", [forbidden, restarting])


def test_a_refusal_does_not_add_a_traceback_to_the_shared_error() -> None:
    problem = FailedPrecondition("not allowed")
    with pytest.raises(FailedPrecondition):
        choose("cpu", [Forecast("cpu", problem)])
    assert problem.__traceback__ is None


@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_spaces_around_entries_do_not_count(entries: list[str]) -> None:
    assert entries_of(" , ".join(entries)) == entries


def test_near_ties_do_not_change_the_device() -> None:
    last, chosen = "", []
    for cpu_us, gpu_us in [(100, 101), (101, 100), (100, 95), (95, 100), (100, 92)]:
        last = choose("auto", [idle("cpu", cpu_us), idle("cuda:0", gpu_us)], last=last).device
        chosen.append(last)
    assert chosen == ["cpu"] * 5


@given(st.floats(1, 1e6), st.floats(0, 1), st.sampled_from(["cpu", "cuda:0"]))
def test_the_last_choice_is_kept_exactly_while_it_is_within_the_hysteresis(sooner: float, more: float, last: str) -> None:
    other = "cuda:0" if last == "cpu" else "cpu"
    later = sooner * (1 + more)
    route = choose("auto", [idle(last, later), idle(other, sooner)], last=last)
    assert route.device == (last if later <= sooner * (1 + HYSTERESIS) else other)


def test_an_unavailable_last_choice_is_ignored() -> None:
    assert choose("auto", [CPU._replace(unavailable=RESTARTING), SLOW_CPU], last="cpu").device == "cpu:slow"
    assert choose("auto", [CPU, SLOW_CPU], last="cuda:7").device == "cpu"


@pytest.mark.parametrize(
    ("asked", "gpu", "device", "reason"),
    [
        ("auto", GPU1._replace(unavailable=FULL), "cpu", "spill"),
        ("auto", GPU1._replace(unavailable=RESTARTING), "cpu", "only-device"),
        ("auto", busy("cuda:1", 1000, 100), "cpu", "spill"),
        ("auto", busy("cuda:1", 0, 295), "cuda:1", "earliest"),  # no faster than the other
        ("cuda:1,cpu", GPU1._replace(unavailable=FULL), "cpu", "spill"),
        ("cuda:1,cpu", GPU1._replace(unavailable=RESTARTING), "cpu", "preference"),
        ("cuda:1,cpu", busy("cuda:1", 1000, 100), "cuda:1", "preference"),  # the order of preference counts
        ("cpu,cuda:1", GPU1._replace(unavailable=FULL), "cpu", "preference"),
    ],
)
def test_a_request_spills_where_a_faster_or_preferred_device_is_too_busy(
    asked: str, gpu: Forecast, device: str, reason: str
) -> None:
    route = choose(asked, [CPU, gpu])
    assert (route.device, route.reason) == (device, reason)


def test_a_request_spills_from_a_preferred_device_that_is_too_late() -> None:
    late = busy("cuda:1", 1000, 100)
    route = choose("cuda:1,cpu", [CPU, late], deadline_us=500)
    assert (route.device, route.reason) == ("cpu", "spill")


DEAR, CHEAP = idle("cuda:0", 100, rate=10), idle("cpu", 300, rate=1)


def test_the_cheapest_device_is_that_with_the_cheapest_run_not_the_cheapest_hour() -> None:
    assert choose("auto", [DEAR, CHEAP], objective=COST) == Route("cpu", "cheapest-in-time", 300)
    assert choose("auto", [DEAR, idle("cpu", 3000, rate=1)], objective=COST).device == "cuda:0"
    assert choose("auto", [DEAR, CHEAP], objective=LATENCY).device == "cuda:0"


def test_a_run_that_is_shared_at_no_extra_time_costs_nothing() -> None:
    batched = DEAR._replace(added_us=0.0)
    assert choose("auto", [batched, CHEAP], objective=COST).device == "cuda:0"


@pytest.mark.parametrize("limit", ["deadline_us", "target_us"])
def test_a_cheaper_device_must_finish_in_time_with_a_margin_of_a_tenth(limit: str) -> None:
    for limit_us, device in [(334, "cpu"), (333, "cuda:0")]:
        preferences: dict[str, Any] = {"objective": COST, limit: limit_us}
        assert choose("auto", [DEAR, CHEAP], **preferences).device == device


def test_if_no_device_meets_the_target_the_earliest_is_chosen() -> None:
    assert choose("auto", [DEAR, CHEAP], objective=COST, target_us=1) == Route("cuda:0", "earliest", 100)


@pytest.mark.parametrize(("objective", "setting"), [(COST, "price_per_hour"), (ENERGY, "idle_w and busy_w")])
def test_an_objective_without_rates_fails_and_names_the_settings(objective: str, setting: str) -> None:
    text = rf"'{objective}' needs {setting} of device 'cpu'; set it under \[devices.\"cpu\"\], or ask for 'latency'"
    with pytest.raises(FailedPrecondition, match=text):
        choose("auto", [DEAR, CHEAP._replace(rate=None)], objective=objective)
    assert (
        choose("cpu", [DEAR, CHEAP._replace(rate=None)], objective=objective).device == "cpu"
    )  # no choice, so no rate is needed


@given(hosts(), st.sampled_from([COST, ENERGY]))
def test_the_chosen_device_is_the_cheapest_of_those_in_time(host: list[Forecast], objective: str) -> None:
    rated = [forecast._replace(rate=forecast.rate or 1.0) for forecast in host]
    target_us = 1e6
    try:
        route = choose("auto", rated, objective=objective, target_us=target_us)
    except ServingError:
        return
    if route.reason == "cheapest-in-time":
        limit_us = target_us * (1 - SAFETY_MARGIN)
        in_time = [
            c
            for c in rated
            if c.unavailable is None and c.predicted_finish_us is not None and c.predicted_finish_us <= limit_us
        ]
        costs = {forecast.device: (forecast.added_us or 0) * (forecast.rate or 0) for forecast in in_time}
        assert costs[route.device] == min(costs.values())


@pytest.mark.parametrize("asked", ["cpu", "auto", "cpu,cpu"])
def test_a_request_that_cannot_finish_in_time_is_refused_with_the_predicted_time(asked: str) -> None:
    late = Forecast("cpu", None, wait_us=60_000, service_us=30_000, alone_us=90, fastest_us=80)
    text = r"device 'cpu' would take up to 90.0 ms \(predicted 90.0 ms\), and the deadline is in 80.0 ms"
    with pytest.raises(Overloaded, match=text) as caught:
        choose(asked, [late], deadline_us=80_000)
    assert caught.value.pushback_ms == -1
    assert choose(asked, [late], deadline_us=90_000).device == "cpu"
    with pytest.raises(Overloaded, match=r"up to 135.0 ms \(predicted 90.0 ms\), and the deadline is in 100.0 ms"):
        choose(asked, [late._replace(caution=1.5)], deadline_us=100_000)


def test_an_idle_device_may_be_tried_if_its_fastest_run_would_be_in_time() -> None:
    free = Forecast("cpu", None, wait_us=0.0, service_us=90, alone_us=90, fastest_us=80, caution=4.0)
    assert choose("cpu", [free], deadline_us=80).device == "cpu"
    with pytest.raises(Overloaded, match=r"at least 80 us \(predicted 90 us\), and the deadline is in 79 us"):
        choose("cpu", [free], deadline_us=79)


def test_a_deadline_in_the_past_is_reported_as_no_time_left() -> None:
    with pytest.raises(Overloaded, match=r"the deadline is in 0\.0 ms"):
        choose("cpu", [CPU], deadline_us=-5)


def test_a_device_that_was_never_measured_may_be_tried() -> None:
    assert choose("cpu", [idle("cpu")], deadline_us=1).device == "cpu"


@given(hosts(), st.floats(0, 2e6))
def test_a_request_that_some_device_may_finish_in_time_is_not_refused(host: list[Forecast], deadline_us: float) -> None:
    able = {forecast.device for forecast in host if _able(forecast, deadline_us)}
    try:
        assert choose("auto", host, deadline_us=deadline_us).device in able
    except ServingError:
        assert not able


#: 600 arrivals per second, each with 10 ms of slack.
HURRIED = (ArrivalRate(600.0, 10_000.0),)


def with_arrivals(forecast: Forecast, *arrivals: ArrivalRate) -> Forecast:
    """The device with other arrivals, which a request there would delay."""
    return forecast._replace(occupancy_us=forecast.added_us, arrivals=arrivals)


def test_imposed_delay_counts_as_much_as_the_requests_own_time() -> None:
    gpu, cpu = busy("cuda:0", 60_000, 15_000), busy("cpu", 0, 49_000)
    crowded = with_arrivals(cpu, ArrivalRate(600.0, math.inf))

    # About 29 requests arrive during the run, and wait for half of it on average.
    assert routing.imposed_delay_us(crowded) == pytest.approx(600 * 0.049 * 49_000 / 2)
    assert choose("auto", [cpu, gpu]).device == "cpu"
    assert choose("auto", [crowded, gpu]) == Route("cuda:0", "earliest", 75_000)


def test_a_batched_request_delays_arrivals_by_the_time_it_adds_to_the_run() -> None:
    batched = with_arrivals(busy("cpu", 20_000, 9_000)._replace(added_us=1_000), ArrivalRate(100.0, math.inf))

    assert routing.imposed_delay_us(batched) == pytest.approx(100 * 0.028 * 1_000 + 100 * 0.001 * 500)


def test_the_predicted_time_of_a_route_is_the_requests_own() -> None:
    assert choose("auto", [with_arrivals(idle("cpu", 300), *HURRIED), SLOW_CPU]).predicted_us == 300


def test_arrivals_with_less_slack_than_the_rest_of_the_run_are_expected_misses() -> None:
    assert routing.expected_deadline_misses(with_arrivals(idle("cpu", 49_000), *HURRIED)) == pytest.approx(600 * 0.039)
    assert routing.expected_deadline_misses(with_arrivals(idle("cpu", 9_000), *HURRIED)) == 0
    assert routing.expected_deadline_misses(with_arrivals(idle("cpu", 49_000), ArrivalRate(600.0, math.inf))) == 0


def test_a_device_with_more_than_one_expected_miss_is_avoided() -> None:
    gpu, cpu = busy("cuda:0", 200_000, 15_000), idle("cpu", 49_000)

    assert choose("auto", [cpu, gpu]).device == "cpu"
    assert choose("auto", [with_arrivals(cpu, *HURRIED), gpu]).device == "cuda:0"
    few = with_arrivals(cpu, ArrivalRate(20.0, 10_000.0))  # 0.8 expected misses: fewer than the request itself
    assert choose("auto", [few, gpu]).device == "cpu"


def test_a_request_is_refused_if_only_such_a_device_would_answer_in_time() -> None:
    with pytest.raises(Overloaded) as refused:
        choose("auto", [busy("cuda:0", 200_000, 15_000), with_arrivals(idle("cpu", 49_000), *HURRIED)], deadline_us=100_000)

    assert "device 'cpu' would be held for 49.0 ms, which would make 23.4 others late" in str(refused.value)
    assert "device 'cuda:0' would take up to 215.0 ms" in str(refused.value)


@pytest.mark.parametrize("gpu", [GPU0._replace(unavailable=RESTARTING), with_arrivals(busy("cuda:0", 2e5, 6e4), *HURRIED)])
def test_it_is_not_refused_if_there_is_no_better_device(gpu: Forecast) -> None:
    assert choose("auto", [gpu, with_arrivals(idle("cpu", 49_000), *HURRIED)], deadline_us=100_000).device == "cpu"


@pytest.mark.parametrize("asked", ["cpu", "cuda,cpu"])
def test_a_named_device_is_kept_whatever_arrives_there(asked: str) -> None:
    late = busy("cuda:0", 200_000, 15_000)

    assert choose(asked, [late, with_arrivals(idle("cpu", 49_000), *HURRIED)], deadline_us=100_000).device == "cpu"


ARRIVALS = st.lists(st.builds(ArrivalRate, st.floats(0, 1e4), st.floats(1, 1e6)), max_size=3)


@given(hosts(), st.tuples(ARRIVALS, ARRIVALS, ARRIVALS, ARRIVALS))
def test_some_working_device_always_takes_a_request_whatever_arrives(
    host: list[Forecast], arrivals: tuple[list[ArrivalRate], ...]
) -> None:
    crowded = [with_arrivals(forecast, *each) for forecast, each in zip(host, arrivals, strict=True)]
    refused = routing.refusals(crowded, None)

    assert {forecast.device for forecast in host if forecast.unavailable} <= refused.keys()
    least = min(
        (routing.expected_deadline_misses(each) for each in crowded if not each.unavailable or each.unavailable is FULL),
        default=None,
    )
    for each in crowded:
        if not each.unavailable and (
            routing.expected_deadline_misses(each) <= 1 or routing.expected_deadline_misses(each) == least
        ):
            assert each.device not in refused


def sharing(name: str, wait_us: float, service_us: float, overtaken: int = 0) -> Forecast:
    """A device that shares its hardware with others, at a moment when others wait there."""
    return busy(name, wait_us, service_us)._replace(place="cores", overtaken=overtaken)


def test_a_slower_engine_is_not_chosen_for_going_before_others() -> None:
    faster = sharing("openvino", 300, 200)
    assert choose("auto", [sharing("cpu", 100, 300, overtaken=1), faster]).device == "openvino"
    assert choose("auto", [sharing("cpu", 100, 300), faster]).device == "cpu"  # nobody waits for it


def test_what_a_faster_engine_cannot_do_in_time_is_refused_if_a_slower_one_could_only_by_going_before_others() -> None:
    faster = sharing("openvino", 900, 200)
    with pytest.raises(Overloaded, match="'cpu' would only be in time before 2 others that wait"):
        choose("auto", [sharing("cpu", 100, 300, overtaken=2), faster], deadline_us=1000)
    assert choose("auto", [sharing("cpu", 100, 300), faster], deadline_us=1000).device == "cpu"
    elsewhere = busy("cuda:0", 900, 200)
    assert choose("auto", [sharing("cpu", 100, 300, overtaken=2), elsewhere], deadline_us=1000).device == "cpu"


def test_a_queue_that_stands_takes_only_who_waits_for_a_share_of_its_time() -> None:
    standing = busy("cpu", wait_us=300_000, service_us=10_000)._replace(stands=True)
    with pytest.raises(Overloaded, match=r"would wait 300\.0 ms, and until that is over up to 200\.0 ms are allowed"):
        choose("cpu", [standing], deadline_us=1_000_000)
    assert choose("cpu", [standing], deadline_us=1_500_000).device == "cpu"
    assert choose("cpu", [standing]).device == "cpu"  # without a deadline
    assert choose("cpu", [standing._replace(stands=False)], deadline_us=1_000_000).device == "cpu"
    assert choose("auto", [standing, SLOW_CPU], deadline_us=1_000_000).device == "cpu:slow"


def test_a_slower_engine_that_is_too_late_keeps_nobody_from_the_faster_one() -> None:
    slower = sharing("openvino", 900, 400)
    assert choose("auto", [sharing("cpu", 100, 300, overtaken=2), slower], deadline_us=1000).device == "cpu"
