"""Profiles of devices that requests pass by are refreshed while those idle, and what was learnt is kept."""

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.errors import DeviceLost
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.core.signatures import Signature
from turnout_server.models.loading import ModelVersion
from turnout_server.models.profile_store import ProfileKey, ProfileStore
from turnout_server.models.profiler import Profiler
from turnout_server.models.refresher import LONGEST_RUN_S, REFRESH_S, Refresher

from tests.server.fakes import AddingSession, Clock, deployment


def key(device: str) -> ProfileKey:
    return ProfileKey("abc", "model.onnx", device, "1.32.0", "defaults")


class Made:
    """A refresher, a model on each of some devices, and what those devices are doing."""

    def __init__(self, directory: Path, devices: tuple[str, ...] = ("cpu", "cuda:0"), service_us: float = 100) -> None:
        self.clock = Clock()
        self.busy: set[str] = set()
        self.broken: set[str] = set()
        self.store = ProfileStore(directory)
        self.refresher = Refresher(
            self.store, lambda device: device not in self.broken, lambda device: device not in self.busy, self.clock
        )
        self.sessions = {device: AddingSession() for device in devices}
        some = self.sessions[devices[0]]
        signature = Signature(some.inputs, some.outputs, 8)
        deployments = {device: deployment(s, device=device, profile_key=key(device)) for device, s in self.sessions.items()}
        for each in deployments.values():
            each.profile.measure(1, [service_us] * 5)
        self.model = ModelVersion("adds", 1, ModelConfiguration("adds"), signature, deployments, {})
        self.refresher.add(self.model)

    def served(self, device: str, rows: int = 1, times: int = 1) -> None:
        """Requests ran there."""
        for _ in range(times):
            self.model.deployments[device].profile.observe(rows, 100)

    def after(self, seconds: float = REFRESH_S) -> None:
        self.clock.now_s += seconds
        self.refresher.refresh()

    @property
    def runs(self) -> dict[str, list[int]]:
        """The rows of each run that was made to refresh a profile."""
        return {device: session.runs for device, session in self.sessions.items()}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_device_that_requests_pass_by_gets_one_run_a_minute(made: Made) -> None:
    for minute in (1, 2, 3):
        made.served("cuda:0")
        made.after(REFRESH_S - 1)
        assert made.runs["cpu"] == [1] * (minute - 1)
        made.after(1)
        made.after(0)
        assert made.runs == {"cpu": [1] * minute, "cuda:0": []}


def test_the_run_moves_the_estimate_of_that_device(made: Made) -> None:
    before = made.model.deployments["cpu"].profile.predict_us(1)
    made.served("cuda:0")
    made.after()
    profile = made.model.deployments["cpu"].profile
    assert profile.runs(1) == 6
    assert profile.predict_us(1) != before


def test_a_model_that_nobody_asks_for_is_left_alone(made: Made) -> None:
    for _ in range(10):
        made.after()
    assert made.runs == {"cpu": [], "cuda:0": []}


def test_a_refreshing_run_does_not_count_as_somebody_asking(made: Made) -> None:
    made.served("cuda:0")
    for _ in range(10):
        made.after()
    assert made.runs == {"cpu": [1], "cuda:0": []}


def test_devices_that_all_serve_need_no_refreshing(made: Made) -> None:
    made.served("cuda:0")
    made.served("cpu")
    made.after()
    assert made.runs == {"cpu": [], "cuda:0": []}


def test_a_model_with_one_device_has_nothing_to_compare(tmp_path: Path) -> None:
    made = Made(tmp_path, devices=("cpu",))
    made.served("cpu")
    made.after()
    assert made.runs == {"cpu": []}


def test_a_busy_device_is_waited_for_without_holding_anything_up(made: Made) -> None:
    made.busy.add("cpu")
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == []
    made.busy.clear()
    made.after(0.1)
    assert made.runs["cpu"] == [1]


def test_a_request_that_comes_first_makes_the_run_unnecessary(made: Made) -> None:
    made.busy.add("cpu")
    made.served("cuda:0")
    made.after()
    made.served("cpu")
    made.busy.clear()
    made.after(0.1)
    assert made.runs["cpu"] == []


def test_a_device_that_does_not_work_is_not_tried_and_leaves_nothing_to_compare(tmp_path: Path) -> None:
    made = Made(tmp_path, devices=("cpu", "cuda:0", "cuda:1"))
    made.broken.add("cuda:1")
    made.served("cuda:0")
    made.after()
    assert made.runs == {"cpu": [1], "cuda:0": [], "cuda:1": []}
    made.broken.add("cpu")
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == [1]


def test_a_device_lost_in_the_run_stops_nothing(made: Made) -> None:
    def trouble(inputs: Mapping[str, np.ndarray]) -> None:
        raise DeviceLost("its process ended")

    made.sessions["cpu"].trouble = trouble
    made.served("cuda:0")
    made.after()
    assert made.model.deployments["cpu"].profile.runs(1) == 5
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == [1, 1]


def test_a_run_that_would_take_long_is_not_made(tmp_path: Path) -> None:
    made = Made(tmp_path, service_us=LONGEST_RUN_S * 1e6 * 1.01)
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == []


def test_the_run_has_the_rows_that_runs_there_mostly_had(made: Made) -> None:
    made.served("cpu", rows=4, times=20)
    made.after()
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == [4]


def test_what_requests_and_refreshing_taught_is_kept(made: Made) -> None:
    made.served("cuda:0", times=7)
    made.after()
    for device, runs in (("cuda:0", 12), ("cpu", 6)):
        kept = made.store.load(key(device))
        assert kept is not None
        assert kept.runs(1) == runs


def test_an_unloaded_model_is_not_kept_alive(made: Made) -> None:
    made.served("cuda:0")
    made.after()
    model, session = weakref.ref(made.model), weakref.ref(made.sessions["cpu"])
    del made.model
    made.sessions.clear()
    gc.collect()
    assert model() is None
    assert session() is None
    made.after()


def test_the_profiler_refreshes_and_keeps_what_was_learnt_when_it_stops(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for each in made.model.deployments.values():  # so that nothing is left to measure
        for rows in (2, 4, 8):
            each.profile.measure(rows, [100] * 5)
    profiler = Profiler(made.store, lambda device: True, 10, clock=made.clock)
    try:
        profiler.add(made.model)
        made.served("cuda:0")
        made.clock.now_s += REFRESH_S
        assert made.sessions["cpu"].started.acquire(timeout=10)
        made.served("cuda:0", times=3)
    finally:
        profiler.stop()
    kept = made.store.load(key("cuda:0"))
    assert kept is not None
    assert kept.runs(1) == 9


def test_without_a_budget_nothing_is_refreshed(tmp_path: Path) -> None:
    made = Made(tmp_path)
    profiler = Profiler(made.store, lambda device: True, budget_s=0, clock=made.clock)
    profiler.add(made.model)
    made.served("cuda:0")
    made.clock.now_s += REFRESH_S
    assert not made.sessions["cpu"].started.acquire(timeout=0.3)
    profiler.stop()


def test_a_measured_model_can_be_unloaded_too(tmp_path: Path) -> None:
    made = Made(tmp_path)
    profiler = Profiler(made.store, lambda device: True, 10)
    try:
        profiler.add(made.model)
        profiler.settle()
        session = weakref.ref(made.sessions["cpu"])
        del made.model
        made.sessions.clear()
        gc.collect()
        assert session() is None
    finally:
        profiler.stop()
