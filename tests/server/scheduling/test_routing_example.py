"""The worked example of docs/routing.md: its tables hold what the decision functions return."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from turnout_server.core.errors import Overloaded
from turnout_server.devices.device import Device
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import routing
from turnout_server.scheduling.arrivals import ArrivalRate, Arrivals
from turnout_server.scheduling.device_queue import DeviceQueue, due
from turnout_server.scheduling.routing import COST, ENERGY, LATENCY, Forecast, Preferences

from tests.server.fakes import FakeRequest, deployment, profile

PAGE = (Path(__file__).parents[3] / "docs" / "routing.md").read_text()
NOW_S = 1000.0
#: The remaining time of the runs in progress.
LEFT_US = {"cuda:0": [12_000.0], "cpu": []}
DEVICES = {
    "cuda:0": Device("cuda:0", "cuda", "CUDAExecutionProvider", price_per_hour=1.20, idle_w=60, busy_w=300),
    "cpu": Device("cpu", "cpu", "CPUExecutionProvider", price_per_hour=0.10, idle_w=20, busy_w=95),
}
RUNS_US = {
    "cuda:0": {1: 6_000, 2: 7_000, 4: 9_000, 8: 13_000},
    "cpu": {1: 20_000, 2: 38_000, 4: 76_000, 8: 152_000},
}
FASTEST_US = {"cuda:0": 5_500, "cpu": 18_000}


def scan_on(device: str) -> Deployment:
    """The requested model; its fastest run of one row was faster than the expected one."""
    known = profile(RUNS_US[device])
    known.measure(1, [FASTEST_US[device], *[RUNS_US[device][1]] * 4])
    return deployment(name="scan", device=device, profile=known, target_us=40_000.0)


def queue_of(device: str, scan: Deployment) -> DeviceQueue[FakeRequest]:
    """The queued requests: on the GPU one for another model and three for this one; on the CPU none."""
    device_queue: DeviceQueue[FakeRequest] = DeviceQueue()
    if device == "cuda:0":
        lang = deployment(name="lang", device=device, profile=profile({1: 15_000}), target_us=20_000.0)
        device_queue.add(FakeRequest(lang, priority=0, enqueued_s=NOW_S - 0.005))  # type: ignore[arg-type]
        for _ in range(3):
            device_queue.add(FakeRequest(scan, priority=0, enqueued_s=NOW_S - 0.020))  # type: ignore[arg-type]
    return device_queue


def forecast(device: str, deadline_us: float | None) -> Forecast:
    """The forecast for one more row, as the executor makes it."""
    scan = scan_on(device)
    start_by_s = scan.start_by_s(1, None if deadline_us is None else NOW_S + deadline_us * 1e-6, None)
    ahead_us, service_us, added_us, _ = queue_of(device, scan).predicted_us(scan, "k", 1, 0, due(scan, NOW_S, start_by_s))
    alone_us, fastest_us = scan.predict_us(1), scan.profile.fastest_us(1)
    assert alone_us is not None
    assert fastest_us is not None
    wait_us = routing.wait_us(LEFT_US[device], ahead_us, instances=1)
    return Forecast(device, None, wait_us, service_us, added_us, alone_us, fastest_us)


def arrivals(device: str) -> Sequence[ArrivalRate]:
    """The recent arrivals: on the CPU 600 requests per second with a slack of 10 ms, for ten seconds; on the GPU none."""
    counted = Arrivals()
    if device == "cpu":
        for number in range(6000):
            counted.add(NOW_S - 10 + number / 600, 0, 0.010)
    return counted.recent(NOW_S, 0)


def forecast_with_choice(device: str, objective: str, deadline_us: float | None, *, urgent_arrivals: bool = False) -> Forecast:
    seen = forecast(device, deadline_us)
    rate = DEVICES[device].price_per_hour if objective == COST else DEVICES[device].extra_w
    occupancy_us = min(seen.added_us, scan_on(device).longest_chunk_us(1))
    others = arrivals(device) if urgent_arrivals else ()
    return seen._replace(rate=rate, occupancy_us=occupancy_us, arrivals=others)


def choose(objective: str, deadline_us: float | None, *, urgent_arrivals: bool = False) -> routing.Route:
    preferences = Preferences(routing.resolve("auto", tuple(DEVICES)), objective, deadline_us, target_us=40_000.0)
    host = {name: forecast_with_choice(name, objective, deadline_us, urgent_arrivals=urgent_arrivals) for name in DEVICES}
    return routing.choose(preferences, host, {})


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


@pytest.mark.parametrize(("device", "max_batch"), [("cuda:0", 8), ("cpu", 2)])
def test_profiles_and_batch_sizes_are_those_of_the_page(device: str, max_batch: int) -> None:
    assert scan_on(device).effective_max_batch == max_batch

    declared = DEVICES[device]
    runs_ms = [f"{us / 1e3:g}" for us in RUNS_US[device].values()]
    cells = (*runs_ms, f"{FASTEST_US[device] / 1e3:g}", max_batch, f"{declared.price_per_hour:.2f}", f"{declared.extra_w:g}")
    assert row(f"`{device}`", *cells) in PAGE


@pytest.mark.parametrize("device", DEVICES)
def test_the_terms_of_a_prediction_are_those_of_the_page(device: str) -> None:
    seen = forecast(device, None)
    assert seen.wait_us is not None
    assert seen.predicted_finish_us is not None
    ahead_us = seen.wait_us - sum(LEFT_US[device])
    terms_us = (sum(LEFT_US[device]), ahead_us, seen.service_us, seen.predicted_finish_us, seen.added_us)

    cost = DEVICES[device].price_per_hour or 0.0
    energy_w = DEVICES[device].extra_w or 0.0
    per_million, energy_j = cost * seen.added_us / 3600, energy_w * seen.added_us * 1e-6
    terms_ms = [f"{us / 1e3:g}" for us in terms_us]
    assert row(f"`{device}`", *terms_ms, f"{per_million:.2f}", f"{energy_j:.2f}") in PAGE


@pytest.mark.parametrize(
    ("number", "objective", "deadline_ms", "device", "reason", "predicted_ms"),
    [
        (1, LATENCY, None, "cpu", "spill", 20),
        (2, COST, 50, "cuda:0", "cheapest-in-time", 36),
        (3, ENERGY, 38, "cpu", "cheapest-in-time", 20),
    ],
)
def test_a_request_of_the_page_goes_where_it_says(
    number: int, objective: str, deadline_ms: int | None, device: str, reason: str, predicted_ms: int
) -> None:
    route = choose(objective, None if deadline_ms is None else deadline_ms * 1e3)

    assert (route.device, route.reason) == (device, reason)
    assert route.predicted_us == pytest.approx(predicted_ms * 1e3)
    asked = (f"`{objective}`", "none" if deadline_ms is None else f"{deadline_ms} ms")
    assert row(number, *asked, f"`{device}`", f"`{reason}`", f"{predicted_ms} ms") in PAGE


def test_a_request_that_no_device_can_answer_in_time_is_refused_in_the_words_of_the_page() -> None:
    with pytest.raises(Overloaded) as refused:
        choose(LATENCY, 15e3)

    assert str(refused.value) in " ".join(PAGE.split())


def test_request_3_would_be_admitted_on_the_gpu_but_not_within_the_margin() -> None:
    seen = forecast("cuda:0", 38e3)

    assert seen.predicted_finish_us == 36e3
    assert seen.predicted_finish_us > 38e3 * (1 - routing.SAFETY_MARGIN)


@pytest.mark.parametrize("device", DEVICES)
def test_imposed_delay_and_expected_misses_are_those_of_the_page(device: str) -> None:
    seen = forecast_with_choice(device, LATENCY, None, urgent_arrivals=True)
    assert seen.predicted_finish_us is not None

    cells = (
        f"{seen.predicted_finish_us / 1e3:g}",
        f"{routing.imposed_delay_us(seen) / 1e3:.0f}",
        f"{routing.expected_deadline_misses(seen):.1f}",
    )
    assert row(f"`{device}`", *cells) in PAGE


def test_a_request_stays_away_from_a_device_with_urgent_arrivals_as_the_page_says() -> None:
    assert choose(LATENCY, None, urgent_arrivals=True) == routing.Route("cuda:0", "only-device", 36e3)
    with pytest.raises(Overloaded) as refused:
        choose(LATENCY, 30e3, urgent_arrivals=True)

    assert str(refused.value) in " ".join(PAGE.split())
