"""Limits on loaded models and their weights: a requested model replaces the least recently requested ones."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from turnout_server.core.errors import FailedPrecondition, InvalidRequest, Unavailable
from turnout_server.core.listeners import Listeners
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.models.control import Control
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.repository import Limits, Repository

from tests.server.fakes import FakeEngine, FakeObserver, FakeProfiler

TWO_MODELS = Limits(models=2)


def repository_of(
    root: Path,
    wanted: Callable[[str], None] = lambda name: None,
    limits: Limits = TWO_MODELS,
    changed: Callable[[], None] = lambda: None,
    weights: dict[str, int] | None = None,
) -> Repository:
    for name, weight in (weights or dict.fromkeys("abc", 0)).items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_bytes(bytes(weight))
    loader = Loader({"cpu": FakeEngine("cpu")}, ProfileStore(None))
    repository = Repository(root, loader, limits=limits)
    repository.observer = FakeObserver(changed, wanted)
    return repository


@pytest.fixture
def wanted() -> list[str]:
    return []


@pytest.fixture
def repository(tmp_path: Path, wanted: list[str]) -> Repository:
    repository = repository_of(tmp_path, wanted.append)
    repository.start()
    return repository


def loaded(repository: Repository) -> list[str]:
    return [version.name for version in repository.ready()]


def test_no_more_than_the_limit_are_loaded_at_the_start(repository: Repository) -> None:
    assert loaded(repository) == ["a", "b"]
    assert repository.settled
    assert [entry.state for entry in repository.index()] == ["READY", "READY", "UNAVAILABLE"]


def test_a_request_for_an_evicted_model_reloads_it_in_place_of_the_least_recently_requested(
    repository: Repository, wanted: list[str]
) -> None:
    repository.find("a")
    with pytest.raises(Unavailable) as caught:
        repository.find("c")
    assert caught.value.pushback_ms == 1000
    assert wanted == ["c"]
    repository.load("c")
    assert loaded(repository) == ["a", "c"]
    assert repository.find("c").name == "c"


def test_asking_whether_an_evicted_model_is_ready_does_not_reload_it(repository: Repository, wanted: list[str]) -> None:
    assert not repository.is_ready("c")
    assert wanted == []


def test_a_reload_evicts_no_other_model(repository: Repository) -> None:
    repository.load("a")
    assert loaded(repository) == ["a", "b"]


def test_without_a_limit_no_model_is_evicted(tmp_path: Path, wanted: list[str]) -> None:
    repository = repository_of(tmp_path, wanted.append, Limits())
    repository.start()
    assert loaded(repository) == ["a", "b", "c"]


def test_polling_does_not_reload_an_evicted_model(repository: Repository) -> None:
    repository.poll()
    assert loaded(repository) == ["a", "b"]


@pytest.fixture
def weighed(tmp_path: Path, wanted: list[str]) -> Repository:
    repository = repository_of(
        tmp_path, wanted.append, Limits(weight_bytes=100), weights={"a": 40, "b": 50, "c": 60, "d": 10, "e": 101}
    )
    repository.start()
    return repository


def test_no_more_than_the_allowed_weight_is_loaded_at_the_start(weighed: Repository) -> None:
    assert loaded(weighed) == ["a", "b", "d"]
    assert [entry.name for entry in weighed.index() if "unloaded to make room" in entry.reason] == ["c"]


def test_as_many_models_are_evicted_as_the_requested_one_needs(weighed: Repository, wanted: list[str]) -> None:
    for name in "bda":
        weighed.find(name)
    with pytest.raises(Unavailable, match="being loaded again"):
        weighed.find("c")
    assert wanted == ["c"]
    weighed.load("c")
    assert loaded(weighed) == ["a", "c"]  # without b, a and d leave 50 bytes, so d has to go as well
    weighed.load("d")
    assert loaded(weighed) == ["c", "d"]


def test_a_model_that_exceeds_the_limit_alone_fails_with_the_setting_to_change(weighed: Repository) -> None:
    with pytest.raises(FailedPrecondition, match=r"its weights take 0\.0 MiB, and --max-loaded-mb=0 is the limit"):
        weighed.find("e")
    with pytest.raises(InvalidRequest, match="is the limit"):
        weighed.load("e")
    assert loaded(weighed) == ["a", "b", "d"]


def test_a_model_that_has_grown_evicts_others_when_it_is_reloaded(weighed: Repository, tmp_path: Path) -> None:
    (tmp_path / "d/1/model.onnx").write_bytes(bytes(60))
    weighed.find("a")
    weighed.load("d")
    assert loaded(weighed) == ["a", "d"]


def test_weights_count_once_for_each_device(tmp_path: Path) -> None:
    gpu = FakeEngine("cuda:0")
    gpu.device = replace(gpu.device, instances=3)
    (tmp_path / "model.onnx").write_bytes(bytes(10))
    loader = Loader({"cpu": FakeEngine("cpu"), "cuda:0": gpu}, ProfileStore(None))
    assert loader.weight_bytes(tmp_path, ModelConfiguration("m")) == 10 + 10
    assert loader.weight_bytes(tmp_path, ModelConfiguration("m", devices=("cpu",))) == 10


def test_the_control_thread_reloads_a_requested_model(tmp_path: Path) -> None:
    came_back = threading.Event()

    def changed() -> None:
        if of_two.is_ready("c"):
            came_back.set()

    of_two, changes = repository_of(tmp_path), Listeners()
    changes.add(changed)
    control = Control(of_two, FakeProfiler(), changes)
    of_two.start()
    with pytest.raises(Unavailable):
        of_two.find("c")
    assert came_back.wait(timeout=10)
    assert of_two.find("c").name == "c"
    control.stop()
