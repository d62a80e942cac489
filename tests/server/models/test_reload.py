"""Models change while they serve: a request keeps its version, and there is always one that answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.errors import DeviceLost, InternalError, InvalidRequest, NotFound
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.device import Device
from turnout_server.devices.sessions import Session
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.repository import Repository

from tests.server.fakes import AddingSession, FakeEngine


class Disk:
    """A repository with one model, `a`, and the engine that opens it; a file with the text `broken` fails."""

    device = Device("cpu", "cpu", "CPUExecutionProvider")
    restarts = 0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.states_while_loading: list[str] = []
        self.loads = 0
        self.write("good")
        self.repository = Repository(root, Loader({"cpu": self}, ProfileStore(None)))
        self.repository.start()

    def write(self, content: str) -> None:
        directory = self.root / "a" / "1"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.onnx").write_text(content)

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        self.loads += 1
        if self.loads > 1:
            self.states_while_loading = [entry.state for entry in self.repository.index()]
        if path.read_text() == "broken":
            raise InvalidRequest("this file is no model")
        return AddingSession()

    def unavailable_reason(self) -> None:
        """It always works."""

    def await_ready(self, timeout_s: float) -> None:
        """It always is."""

    def stop(self) -> None:
        """Does nothing."""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_during_a_reload_the_old_version_answers(disk: Disk) -> None:
    old = disk.repository.find("a")
    disk.repository.load("a")
    assert disk.states_while_loading == ["READY"]
    assert disk.repository.find("a") is not old


def test_an_unloaded_model_is_unknown_but_finishes_its_requests_and_can_be_loaded_again(disk: Disk) -> None:
    held = disk.repository.find("a")
    disk.repository.unload("a")
    assert [(entry.name, entry.state) for entry in disk.repository.index()] == [("a", "")]
    assert disk.repository.ready() == []
    assert held.deployments["cpu"].session.run({"a": np.ones((1, 2)), "b": np.ones((1, 2))}, ["y"])[0].tolist() == [[2, 2]]
    with pytest.raises(NotFound, match="Request for unknown model: 'a' is not found"):
        disk.repository.find("a")
    disk.repository.load("a")
    assert disk.repository.is_ready("a")


def test_an_unknown_model_can_be_neither_loaded_nor_unloaded(disk: Disk) -> None:
    with pytest.raises(InternalError, match="failed to load 'x', failed to poll from model repository"):
        disk.repository.load("x")
    with pytest.raises(InvalidRequest, match="failed to unload 'x'"):
        disk.repository.unload("x")


def test_a_configuration_given_with_a_load_holds_until_the_next_load(disk: Disk) -> None:
    (disk.root / "a" / "config.pbtxt").write_text("max_batch_size: 4")
    disk.repository.load("a", '{"max_batch_size": 2}')
    assert disk.repository.find("a").signature.max_batch_size == 2
    disk.repository.load("a")
    assert disk.repository.find("a").signature.max_batch_size == 4


def test_polling_tries_a_broken_file_again_only_when_it_has_changed(disk: Disk) -> None:
    old = disk.repository.find("a")
    disk.write("broken")
    disk.repository.poll()
    loads = disk.loads
    disk.repository.poll()
    assert (disk.loads, disk.repository.find("a")) == (loads, old)
    disk.write("mended")
    disk.repository.poll()
    assert disk.repository.find("a") is not old


def test_errors_do_not_reveal_directories(disk: Disk) -> None:
    (disk.root / "a" / "config.pbtxt").mkdir()
    with pytest.raises(InvalidRequest, match=r"^load failed for model 'a': config\.pbtxt is not a regular file$"):
        disk.repository.load("a")


def test_a_model_that_lost_a_device_while_loading_is_reloaded_when_the_device_works_again(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").touch()
    cpu, other = FakeEngine("cpu"), FakeEngine("cpu:other")
    other.open = lose  # type: ignore[method-assign]
    repository = Repository(tmp_path, Loader({"cpu": cpu, "cpu:other": other}, ProfileStore(None)))
    repository.start()
    before = repository.find("m")
    assert list(before.deployments) == ["cpu"]
    del other.open  # the device works again
    repository.reopen()
    assert list(repository.find("m").deployments) == ["cpu", "cpu:other"]
    after = repository.find("m")
    repository.reopen()  # no device is missing now
    assert repository.find("m") is after


def lose(path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
    raise DeviceLost("its process ended")
