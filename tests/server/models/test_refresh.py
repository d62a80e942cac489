"""Profiles of devices without requests are refreshed while the devices are idle, and the results are stored."""

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.errors import DeviceLost
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.core.signatures import Signature
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.per_core import PerCore
from turnout_server.models.profile_store import ProfileKey, ProfileStore
from turnout_server.models.profiler import Profiler
from turnout_server.models.refresher import LONGEST_RUN_S, REFRESH_S, Refresher

from tests.server.fakes import AddingSession, Clock, deployment, profile


def key(device: str) -> ProfileKey:
    return ProfileKey("abc", "model.onnx", device, "1.32.0", "defaults")


class Made:
    """A refresher, a model on some devices, and the state of those devices."""

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
        """Records runs of requests on a device."""
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


def test_a_device_without_requests_gets_one_run_per_minute(made: Made) -> None:
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


def test_a_model_without_requests_is_not_refreshed(made: Made) -> None:
    for _ in range(10):
        made.after()
    assert made.runs == {"cpu": [], "cuda:0": []}


def test_a_refreshing_run_does_not_count_as_a_request(made: Made) -> None:
    made.served("cuda:0")
    for _ in range(10):
        made.after()
    assert made.runs == {"cpu": [1], "cuda:0": []}


def test_devices_that_all_have_requests_need_no_refreshing(made: Made) -> None:
    made.served("cuda:0")
    made.served("cpu")
    made.after()
    assert made.runs == {"cpu": [], "cuda:0": []}


def test_a_model_on_one_device_is_not_refreshed(tmp_path: Path) -> None:
    made = Made(tmp_path, devices=("cpu",))
    made.served("cpu")
    made.after()
    assert made.runs == {"cpu": []}


def test_a_busy_device_is_refreshed_once_it_is_idle(made: Made) -> None:
    made.busy.add("cpu")
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == []
    made.busy.clear()
    made.after(0.1)
    assert made.runs["cpu"] == [1]


def test_a_request_that_runs_first_makes_the_refresh_unnecessary(made: Made) -> None:
    made.busy.add("cpu")
    made.served("cuda:0")
    made.after()
    made.served("cpu")
    made.busy.clear()
    made.after(0.1)
    assert made.runs["cpu"] == []


def test_an_unavailable_device_is_neither_refreshed_nor_compared_with(tmp_path: Path) -> None:
    made = Made(tmp_path, devices=("cpu", "cuda:0", "cuda:1"))
    made.broken.add("cuda:1")
    made.served("cuda:0")
    made.after()
    assert made.runs == {"cpu": [1], "cuda:0": [], "cuda:1": []}
    made.broken.add("cpu")
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == [1]


def test_a_device_lost_during_the_run_does_not_stop_the_refresher(made: Made) -> None:
    def trouble(inputs: Mapping[str, np.ndarray]) -> None:
        raise DeviceLost("its process ended")

    made.sessions["cpu"].trouble = trouble
    made.served("cuda:0")
    made.after()
    assert made.model.deployments["cpu"].profile.runs(1) == 5
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == [1, 1]


def test_a_run_that_would_take_too_long_is_not_made(tmp_path: Path) -> None:
    made = Made(tmp_path, service_us=LONGEST_RUN_S * 1e6 * 1.01)
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == []


def test_the_run_has_the_most_frequent_number_of_rows(made: Made) -> None:
    made.served("cpu", rows=4, times=20)
    made.after()
    made.served("cuda:0")
    made.after()
    assert made.runs["cpu"] == [4]


def test_the_results_of_requests_and_refreshing_runs_are_stored(made: Made) -> None:
    made.served("cuda:0", times=7)
    made.after()
    for device, runs in (("cuda:0", 12), ("cpu", 6)):
        kept = made.store.load(key(device))
        assert kept is not None
        assert kept.runs(1) == runs


def test_an_unloaded_model_is_not_kept_in_memory(made: Made) -> None:
    made.served("cuda:0")
    made.after()
    model, session = weakref.ref(made.model), weakref.ref(made.sessions["cpu"])
    del made.model
    made.sessions.clear()
    gc.collect()
    assert model() is None
    assert session() is None
    made.after()


def test_the_profiler_refreshes_and_stores_the_profiles_when_it_stops(tmp_path: Path) -> None:
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


def test_a_measured_model_is_not_kept_in_memory(tmp_path: Path) -> None:
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


def test_requests_that_a_cpu_runs_on_one_core_each_count_as_its_runs(made: Made) -> None:
    cpu = made.model.deployments["cpu"]
    cpu.per_core = PerCore(AddingSession(), 2, profile({1: 160.0}))
    for _ in range(3):
        cpu.per_core.observe(1, 160)
        made.after()
    assert made.runs == {"cpu": [], "cuda:0": [1, 1, 1]}
