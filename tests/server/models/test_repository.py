import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, InternalError, InvalidRequest, NotFound, ServingError, Unavailable
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.device import Device
from turnout_server.devices.engines import LocalEngine
from turnout_server.devices.sessions import Session
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.repository import Repository

from tests import models
from tests.server.fakes import AddingSession, FakeObserver

CPU = Device("cpu", "cpu", "CPUExecutionProvider", threads=1)
GPU = Device("cuda:0", "cuda", "CUDAExecutionProvider")


class FakeEngine:
    """Opens a session for any file, unless its content asks for an error."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.restarts = 0

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        content = path.read_text()
        if content == "surprise":
            raise ZeroDivisionError("unexpected")
        if content in ("broken", self.device.kind):
            raise FailedPrecondition(f"{path.name} is broken on {self.device.name}")
        return AddingSession()

    def unavailable_reason(self) -> ServingError | None:
        return None

    def await_ready(self, timeout_s: float) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""


def add(root: Path, model: str, version: str = "1", content: str = "", configuration: str | None = None) -> None:
    """Puts a version with a file for `FakeEngine` into a repository."""
    directory = root / model / version
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_text(content)
    if configuration is not None:
        (root / model / "config.pbtxt").write_text(configuration)


def started(root: Path, *devices: Device, changed: Callable[[], None] = lambda: None) -> Repository:
    engines = {device.name: FakeEngine(device) for device in devices or (CPU,)}
    repository = Repository(root, Loader(engines, ProfileStore(None)))
    repository.observer = FakeObserver(changed)
    repository.start()
    return repository


def states(repository: Repository) -> dict[tuple[str, str], str]:
    return {(entry.name, entry.version): entry.state for entry in repository.index()}


def test_a_repository_without_models_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "resnet.onnx").touch()
    repository = started(tmp_path)
    assert repository.settled
    (record,) = caplog.records
    assert (record.levelname, "has no models: expected <model>/<version>/model.onnx" in record.message) == ("WARNING", True)
    assert f"--model-repository {tmp_path}/resnet.onnx --model-name resnet" in record.message


def test_a_repository_that_is_one_file_is_served_from_it(tmp_path: Path) -> None:
    (tmp_path / "resnet.onnx").write_text("")
    (tmp_path / "other.onnx").write_text("broken")
    repository = Repository(tmp_path / "resnet.onnx", Loader({CPU.name: FakeEngine(CPU)}, ProfileStore(None)), "m")
    repository.start()
    assert repository.find("m").configuration.file_for("cpu", "cpu") == "resnet.onnx"


@pytest.mark.parametrize("trouble", ["broken", "surprise"])
def test_a_failing_model_does_not_affect_others(tmp_path: Path, trouble: str) -> None:
    for name in ("a", "c"):
        add(tmp_path, name)
    add(tmp_path, "b", content=trouble)
    repository = started(tmp_path)
    assert repository.settled
    assert repository.is_ready("a")
    assert repository.is_ready("c")
    with pytest.raises(FailedPrecondition, match="'b' could not be loaded"):
        repository.find("b")


def test_the_index_has_a_line_for_each_version_and_the_reason_of_each_failure(tmp_path: Path) -> None:
    add(tmp_path, "a", "1", configuration="version_policy { all {} }")
    add(tmp_path, "a", "2", content="broken")
    repository = started(tmp_path)
    assert states(repository) == {("a", "1"): "READY", ("a", "2"): "UNAVAILABLE"}
    assert [entry.reason for entry in repository.index()] == ["", "cpu: model.onnx is broken on cpu"]


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [10]),
        ("version_policy { latest { num_versions: 2 } }", [9, 10]),
        ("version_policy { all {} }", [1, 9, 10]),
        ("version_policy { specific { versions: [1, 10] } }", [1, 10]),
    ],
)
def test_the_version_policy_decides_which_versions_are_served(tmp_path: Path, policy: str, served: list[int]) -> None:
    for version in ("1", "9", "10"):
        add(tmp_path, "m", version)
    (tmp_path / "m" / "config.pbtxt").write_text(policy)
    repository = started(tmp_path)
    assert [version.version for version in repository.ready("m")] == served
    assert repository.find("m").version == max(served)
    assert repository.find("m", str(served[0])).version == served[0]


@pytest.mark.parametrize("version", ["01", "x", "0", "-1", "1.5", "²"])
def test_other_directories_are_not_versions(tmp_path: Path, version: str) -> None:
    add(tmp_path, "m", "1")
    add(tmp_path, "m", version)
    assert [v.version for v in started(tmp_path).ready("m")] == [1]


def test_hidden_directories_and_files_are_not_models(tmp_path: Path) -> None:
    add(tmp_path, "m")
    add(tmp_path, ".git")
    (tmp_path / "README.md").write_text("")
    assert states(started(tmp_path)) == {("m", "1"): "READY"}


@pytest.mark.parametrize(
    ("version", "error"), [("2", NotFound), ("one", InvalidRequest), ("0", InvalidRequest), ("-1", InvalidRequest)]
)
def test_a_missing_version_and_an_invalid_one_have_different_errors(
    tmp_path: Path, version: str, error: type[ServingError]
) -> None:
    add(tmp_path, "m")
    with pytest.raises(error):
        started(tmp_path).find("m", version)


def test_an_unknown_model_is_not_found(tmp_path: Path) -> None:
    repository = started(tmp_path)
    with pytest.raises(NotFound, match="Request for unknown model: 'm' is not found"):
        repository.find("m")
    assert not repository.is_ready("m")
    with pytest.raises(InternalError, match="failed to load 'm', failed to poll from model repository"):
        repository.load("m")


@pytest.mark.parametrize("version", ["v1", "01", "0", "1.0", "version_1"])
def test_a_version_that_is_written_otherwise_is_named(tmp_path: Path, version: str) -> None:
    (tmp_path / "m" / version).mkdir(parents=True)
    with pytest.raises(FailedPrecondition, match=f"no version to serve: .*, and there is '{version}'; a version is a whole"):
        started(tmp_path).find("m")


@pytest.mark.parametrize("name", ["digit", "Digits"])
def test_an_unknown_model_with_a_near_name_gets_the_name_that_was_meant(tmp_path: Path, name: str) -> None:
    add(tmp_path, "digits")
    repository = started(tmp_path)
    with pytest.raises(NotFound, match=rf"unknown model: '{name}' is not found; did you mean 'digits'\?"):
        repository.find(name)
    with pytest.raises(InternalError, match=r"did you mean 'digits'\?"):
        repository.load(name)
    repository.unload("digits")
    with pytest.raises(NotFound, match=r"is not found$"):
        repository.find(name)


def test_a_model_being_loaded_is_unavailable_until_it_answers(tmp_path: Path) -> None:
    add(tmp_path, "m")
    seen: list[type | None] = []

    def observe() -> None:
        try:
            repository.find("m")
            seen.append(None)
        except ServingError as error:
            seen.append(type(error))

    repository = Repository(tmp_path, Loader({CPU.name: FakeEngine(CPU)}, ProfileStore(None)))
    repository.observer = FakeObserver(observe)
    repository.start()
    assert seen[0] is Unavailable
    assert seen[-1] is None


def test_a_reload_that_fails_leaves_the_old_version_answering(tmp_path: Path) -> None:
    add(tmp_path, "m")
    repository = started(tmp_path)
    before = repository.find("m")
    (tmp_path / "m" / "1" / "model.onnx").write_text("broken")
    with pytest.raises(InvalidRequest, match="load failed for model 'm'"):
        repository.load("m")
    assert repository.find("m") is before


def test_a_poll_loads_new_models_and_unloads_those_that_are_gone(tmp_path: Path) -> None:
    add(tmp_path, "gone")
    add(tmp_path, "kept")
    repository = started(tmp_path)
    kept = repository.find("kept")
    (tmp_path / "gone").rename(tmp_path / ".gone")
    add(tmp_path, "new")
    repository.poll()
    assert states(repository) == {("kept", "1"): "READY", ("new", "1"): "READY"}
    assert repository.find("kept") is kept


def test_a_model_serves_on_the_devices_that_can_load_it(tmp_path: Path) -> None:
    add(tmp_path, "m", content="cuda")
    version = started(tmp_path, CPU, GPU).find("m")
    assert list(version.deployments) == ["cpu"]
    assert str(version.unavailable["cuda:0"]) == "model.onnx is broken on cuda:0"


def test_a_configuration_keeps_a_model_off_a_device(tmp_path: Path) -> None:
    add(tmp_path, "m", configuration="instance_group [{ kind: KIND_CPU }]")
    version = started(tmp_path, CPU, GPU).find("m")
    assert list(version.deployments) == ["cpu"]
    assert "not allowed on device 'cuda:0'" in str(version.unavailable["cuda:0"])


def test_a_link_out_of_the_models_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "repository" / "m" / "1").mkdir(parents=True)
    (tmp_path / "outside.onnx").write_text("")
    (tmp_path / "repository" / "m" / "1" / "model.onnx").symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(FailedPrecondition, match=r"model\.onnx leads out of its model's directory"):
        started(tmp_path / "repository").find("m")


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_63_a_model_that_is_not_a_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(FailedPrecondition, match=r"model\.onnx"):
        started(tmp_path).find("m")


@pytest.mark.parametrize(
    "configuration", [b"max_batch_size: 'many'", b"colour: blue", b"\xff\xfe", b"name: 'other'", b"max_batch_size: -1"]
)
def test_an_error_in_a_configuration_names_the_file_or_the_field(tmp_path: Path, configuration: bytes) -> None:
    add(tmp_path, "m")
    (tmp_path / "m" / "config.pbtxt").write_bytes(configuration)
    with pytest.raises(FailedPrecondition, match=r"config\.pbtxt|max_batch_size"):
        started(tmp_path).find("m")


VALID = models.mlp().SerializeToString()
BROKEN = {
    "empty": b"",
    "text": b"this is no model",
    "cut off": VALID[: len(VALID) // 2],
    "unknown operator": VALID.replace(b"Relu", b"Rulu"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_64_onnx_runtimes_own_refusals_are_failed_preconditions_without_paths(tmp_path: Path, content: bytes) -> None:
    models.save(tmp_path, "m", content)
    repository = Repository(tmp_path, Loader({CPU.name: LocalEngine(CPU)}, ProfileStore(None)))
    repository.start()
    with pytest.raises(FailedPrecondition) as caught:
        repository.find("m")
    assert str(tmp_path) not in str(caught.value)


def test_a_real_model_answers_on_a_real_session(tmp_path: Path) -> None:
    models.save(tmp_path, "m", models.add_constant(2))
    repository = Repository(tmp_path, Loader({CPU.name: LocalEngine(CPU)}, ProfileStore(None)))
    repository.start()
    version = repository.find("m")
    assert version.signature.max_batch_size > 0
    (y,) = version.deployments["cpu"].session.run({"x": np.zeros((1, 1), np.float32)}, ["y"])
    assert y.tolist() == [[2.0]]


def test_a_configuration_may_name_kinds_that_this_server_declares(tmp_path: Path) -> None:
    parameters = {"turnout.devices": "npu", "turnout.default_device": "npu:0,cpu", "turnout.file.npu": "other.onnx"}
    text = "".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in parameters.items())
    add(tmp_path, "m", configuration=text)
    (tmp_path / "m/1/other.onnx").write_text("")
    repository = started(tmp_path, CPU, Device("npu:0", "npu", "VendorExecutionProvider"))
    assert repository.find("m").configuration.devices == ("npu",)
    with pytest.raises(FailedPrecondition, match="unknown device 'npu:0'"):
        started(tmp_path).find("m")


class Locked:
    """Directories that can't be listed. File modes would not do: tests may run as root."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: set[Path] = set()
        listed = os.listdir

        def listdir(path: Any = ".") -> list[str]:
            if Path(path) in self.paths:
                raise PermissionError(13, "Permission denied", str(path))
            return listed(path)

        monkeypatch.setattr(os, "listdir", listdir)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Locked:
    return Locked(monkeypatch)


DENIED = "its directory cannot be listed: Permission denied"


def test_a_model_that_cannot_be_listed_fails_with_the_reason(tmp_path: Path, locked: Locked) -> None:
    add(tmp_path, "good")
    for name in ("bad", "lost+found"):
        (tmp_path / name).mkdir()
        locked.paths.add(tmp_path / name)
    repository = started(tmp_path)
    assert repository.find("good").name == "good"
    reasons = {entry.name: entry.reason for entry in repository.index() if entry.state == "UNAVAILABLE"}
    assert reasons == {"bad": DENIED}  # and `lost+found` is no model
    with pytest.raises(FailedPrecondition, match=DENIED):
        repository.find("bad")


def test_a_model_that_cannot_be_listed_does_not_stop_the_start_in_explicit_mode(tmp_path: Path, locked: Locked) -> None:
    add(tmp_path, "good")
    (tmp_path / "bad").mkdir()
    locked.paths.add(tmp_path / "bad")
    repository = Repository(tmp_path, Loader({CPU.name: FakeEngine(CPU)}, ProfileStore(None)))
    repository.start({"good"})
    assert states(repository) == {("good", "1"): "READY", ("bad", ""): ""}
    with pytest.raises(InvalidRequest, match=DENIED):
        repository.load("bad")


def test_a_version_that_cannot_be_listed_does_not_affect_others(tmp_path: Path, locked: Locked) -> None:
    add(tmp_path, "m", "1", configuration="version_policy { all {} }")
    add(tmp_path, "m", "2")
    locked.paths.add(tmp_path / "m" / "2")
    repository = started(tmp_path)
    assert repository.find("m", "1").version == 1


def test_polling_continues_when_a_model_becomes_unreadable_and_readable_again(tmp_path: Path, locked: Locked) -> None:
    add(tmp_path, "m")
    repository = started(tmp_path)
    locked.paths.add(tmp_path / "m")
    add(tmp_path, "new")
    repository.poll()
    assert repository.find("new").name == "new"
    assert repository.find("m").name == "m"  # the loaded version still answers
    locked.paths.clear()
    repository.poll()
    assert states(repository)["m", "1"] == "READY"


def test_a_repository_that_cannot_be_listed_fails_with_the_reason(tmp_path: Path, locked: Locked) -> None:
    locked.paths.add(tmp_path)
    with pytest.raises(FailedPrecondition, match=r"the model repository .* cannot be listed: Permission denied"):
        started(tmp_path)
