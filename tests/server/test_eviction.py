"""At most so many models are loaded; who is asked for comes back in the place of who wasn't."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from turnout_server.control import Control
from turnout_server.errors import Unavailable
from turnout_server.loading import Loader
from turnout_server.profilestore import ProfileStore
from turnout_server.repository import Repository

from tests.server.fakes import FakeEngine


def repository_of(
    root: Path, wanted: Callable[[str], None], max_loaded: int = 2, changed: Callable[[], None] = lambda: None
) -> Repository:
    for name in "abc":
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").touch()
    loader = Loader({"cpu": FakeEngine("cpu")}, ProfileStore(None))
    return Repository(root, loader, changed=changed, max_loaded=max_loaded, wanted=wanted)


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


def test_asking_for_an_evicted_model_brings_it_back_in_place_of_the_one_not_asked_for(
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


def test_asking_how_an_evicted_model_stands_does_not_bring_it_back(repository: Repository, wanted: list[str]) -> None:
    assert not repository.is_ready("c")
    assert wanted == []


def test_a_reload_evicts_nobody(repository: Repository) -> None:
    repository.load("a")
    assert loaded(repository) == ["a", "b"]


def test_without_a_limit_nobody_is_evicted(tmp_path: Path, wanted: list[str]) -> None:
    repository = repository_of(tmp_path, wanted.append, max_loaded=0)
    repository.start()
    assert loaded(repository) == ["a", "b", "c"]


def test_the_control_thread_loads_what_is_wanted(tmp_path: Path) -> None:
    came_back = threading.Event()

    def changed() -> None:
        if repository.is_ready("c"):
            came_back.set()

    repository = repository_of(tmp_path, lambda name: control.bring_back(name), changed=changed)  # noqa: PLW0108
    control = Control(repository, "none", [], poll_s=1)
    repository.start()
    with pytest.raises(Unavailable):
        repository.find("c")
    assert came_back.wait(timeout=10)
    assert repository.find("c").name == "c"
    control.stop()
