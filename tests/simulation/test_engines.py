"""Two engines that take turns on the same cores, simulated."""

import json
from pathlib import Path

import pytest
from turnout_server.core.device_names import AUTO

from simulation import engines
from simulation.engines import BEST_EACH, Mix, in_time, one_place
from simulation.policies import Random
from simulation.service import Saved
from simulation.simulated_device import ANSWERED
from simulation.simulation import simulate


def linear(fixed_ms: float, row_ms: float) -> Saved:
    """A profile whose runs take `fixed_ms` plus `row_ms` for each row."""
    times_us = {rows: (fixed_ms + row_ms * rows) * 1e3 for rows in (1, 2, 4, 8, 16, 32)}
    return {
        str(rows): {"service_us": us, "spread_us": us * 0.05, "fastest_us": us * 0.95, "runs": 5}
        for rows, us in times_us.items()
    }


PROFILES = {
    "cpu": {"attention": linear(1, 35), "dynamic": linear(0.5, 15)},
    "openvino": {"attention": linear(3, 22), "dynamic": linear(1, 60)},
}
BOTH = (("attention", 1), ("dynamic", 1))


@pytest.mark.parametrize("load", [0.6, 0.9, 1.1])
@pytest.mark.parametrize("parts", [BOTH[:1], BOTH[1:], BOTH, (("attention", 8), ("dynamic", 4))], ids=str)
def test_auto_answers_as_much_in_time_as_the_better_engine(parts: tuple[tuple[str, int], ...], load: float) -> None:
    shares = in_time(Mix("mix", parts, load), PROFILES, 2000, "1")
    assert shares[AUTO] > 0.99 * max(shares["cpu"], shares["openvino"])
    assert shares[AUTO] > 0.97 * shares[BEST_EACH]


def test_auto_answers_more_in_time_where_each_engine_is_better_at_something() -> None:
    shares = in_time(Mix("mix", BOTH, 0.9), PROFILES, 2000, "1")
    assert shares[AUTO] > 1.05 * max(shares["cpu"], shares["openvino"])


def test_engines_of_one_place_never_run_at_once() -> None:
    requests = Mix("mix", BOTH, 0.9).requests(PROFILES, 200, "1")
    devices = one_place(PROFILES, "1")
    simulate(requests, devices, Random("1"))
    answered = [request for request in requests if request.outcome == ANSWERED]
    assert {request.device for request in answered} == set(PROFILES)
    assert sum(device.busy_s for device in devices.values()) <= requests[-1].ended_s
    assert not devices["cpu"].running
    assert devices["cpu"].device_queue is devices["openvino"].device_queue


def test_the_report_has_every_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines.main(["--requests=100", f"--output={tmp_path}"])
    page = (tmp_path / "engines-simulated.md").read_text()
    assert page.strip() in capsys.readouterr().out
    for mix in engines.MIXES:
        assert f"| {mix.name} |" in page
    assert set(json.loads(engines.PROFILES.read_text())["service_us"]) == {"cpu", "openvino"}
