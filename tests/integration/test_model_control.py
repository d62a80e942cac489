"""Tests of loading, reloading and unloading models under traffic."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests import models
from tests.servers import RunningServer, running
from tests.wire import arrays, refused, request

X = {"x": np.zeros((1, 1), np.float32)}
SOON_S = 20.0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.save(tmp_path, "adds", models.add_constant(1))
    models.save(tmp_path, "slow", models.countdown())
    return tmp_path


@pytest.fixture
def explicit(repository: Path, transport: str) -> Iterator[RunningServer]:
    with running(repository, "--model-control-mode=explicit", "--load-model=*", transport=transport) as server:
        yield server


def load(server: RunningServer, name: str, configuration: str = "") -> None:
    message = pb.RepositoryModelLoadRequest(model_name=name)
    if configuration:
        message.parameters["config"].string_param = configuration
    server.stub.RepositoryModelLoad(message, timeout=SOON_S)


def answer_of(server: RunningServer) -> float:
    value: float = arrays(server.stub.ModelInfer(request("adds", X), timeout=SOON_S))["y"].item()
    return value


def eventually(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@contextmanager
def traffic(server: RunningServer, threads: int = 8) -> Iterator[Counter[object]]:
    """Sends requests from many threads during the block; yields counts of answers by value and of failures by status."""
    seen: Counter[object] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                seen[answer_of(server)] += 1
            except grpc.RpcError as error:
                seen[error.code().name] += 1

    clients = [threading.Thread(target=ask) for _ in range(threads)]
    for client in clients:
        client.start()
    try:
        eventually(lambda: seen.total() > 50)
        yield seen
        before = seen.total()
        eventually(lambda: seen.total() > before + 50)
    finally:
        stop.set()
        for client in clients:
            client.join()


def test_70_no_request_fails_while_a_newer_version_replaces_the_old_one(explicit: RunningServer, repository: Path) -> None:
    with traffic(explicit) as seen:
        models.save(repository, "adds", models.add_constant(2), version=2)
        load(explicit, "adds")
        assert answer_of(explicit) == 2
    assert set(seen) == {1.0, 2.0}


def test_70_72_no_request_fails_during_many_reloads(explicit: RunningServer) -> None:
    with traffic(explicit) as seen:
        for _ in range(10):
            load(explicit, "adds")
    assert set(seen) == {1.0}


def test_73_a_failed_reload_has_no_effect_on_requests(explicit: RunningServer, repository: Path) -> None:
    with traffic(explicit) as seen:
        (repository / "adds" / "1" / "model.onnx").write_bytes(b"this is no model")
        with refused("INVALID_ARGUMENT", "load failed for model 'adds': version 1: "):
            load(explicit, "adds")
    assert set(seen) == {1.0}


def test_71_an_unload_lets_running_requests_finish_and_refuses_new_ones(explicit: RunningServer) -> None:
    in_flight = explicit.stub.ModelInfer.future(request("slow", {"n": np.array(400_000)}), timeout=SOON_S)
    time.sleep(0.1)
    explicit.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="slow"), timeout=SOON_S)
    with refused("NOT_FOUND", "Request for unknown model: 'slow' is not found"):
        explicit.stub.ModelInfer(request("slow", {"n": np.array(1)}))
    assert arrays(in_flight.result())["y"] == 400_000
    assert not explicit.stub.ModelReady(pb.ModelReadyRequest(name="slow")).ready


def test_71_an_unload_under_traffic_fails_requests_only_as_unknown_or_unavailable(explicit: RunningServer) -> None:
    with traffic(explicit) as seen:
        explicit.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="adds"), timeout=SOON_S)
        load(explicit, "adds")
    assert set(seen) <= {1.0, "NOT_FOUND", "UNAVAILABLE"}


def test_a_configuration_in_a_load_request_replaces_the_file(explicit: RunningServer) -> None:
    load(explicit, "adds", '{"max_batch_size": 2}')
    assert explicit.stub.ModelConfig(pb.ModelConfigRequest(name="adds")).config.max_batch_size == 2
    with refused("INVALID_ARGUMENT", "batch-size must be <= 2"):
        explicit.stub.ModelInfer(request("adds", {"x": np.zeros((3, 1), np.float32)}))
    with refused("INVALID_ARGUMENT", "not a model configuration in JSON"):
        load(explicit, "adds", "max_batch_size: 2")
    with refused("INVALID_ARGUMENT", "requests that depend on earlier ones are not supported"):
        load(explicit, "adds", '{"sequence_batching": {}}')
    assert answer_of(explicit) == 1


def test_60_a_model_name_must_be_a_plain_directory_name(explicit: RunningServer) -> None:
    for name in ("", ".", "..", "../adds", "adds/1", "adds/", " adds", "adds ", "a\0b"):
        with refused("INVALID_ARGUMENT", "it must be a plain directory name"):
            load(explicit, name)
    for name in ("...", "..adds", "adds..1"):  # unusual, but valid
        with refused("INTERNAL", f"failed to load '{name}', failed to poll from model repository"):
            load(explicit, name)


def test_69_the_parameters_of_a_load_are_validated(explicit: RunningServer) -> None:
    message = pb.RepositoryModelLoadRequest(model_name="adds")
    message.parameters["config"].int64_param = 1
    with refused("INVALID_ARGUMENT", "invalid value type for 'config' parameter, expected string_param."):
        explicit.stub.RepositoryModelLoad(message)


def test_the_model_name_may_be_in_kserves_field(explicit: RunningServer, repository: Path) -> None:
    explicit.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(repository_name="adds"), timeout=SOON_S)
    assert not explicit.stub.ModelReady(pb.ModelReadyRequest(name="adds")).ready
    models.save(repository, "later", models.add_constant(3))
    for name in ("adds", "later"):
        explicit.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(repository_name=name), timeout=SOON_S)
        assert explicit.stub.ModelReady(pb.ModelReadyRequest(name=name)).ready
    with refused("UNIMPLEMENTED", "'repository_name' specification is not supported"):
        explicit.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(repository_name="other", model_name="adds"))


@pytest.mark.parametrize(
    ("mode", "words"), [("none", "without --model-control-mode=explicit"), ("poll", "if polling is enabled")]
)
def test_69_outside_explicit_mode_loads_are_refused(repository: Path, transport: str, mode: str, words: str) -> None:
    with running(repository, f"--model-control-mode={mode}", transport=transport) as server:
        with refused("UNAVAILABLE", f"explicit model load / unload is not allowed {words}"):
            load(server, "adds")
        assert answer_of(server) == 1


def test_polling_loads_and_unloads_what_changes_on_disk(repository: Path, transport: str) -> None:
    flags = ["--model-control-mode=poll", "--repository-poll-s=0.1"]
    with running(repository, *flags, transport=transport) as server, traffic(server, threads=2) as seen:
        models.save(repository, "adds", models.add_constant(2), version=2)
        eventually(lambda: answer_of(server) == 2)
        models.save(repository, "later", models.add_constant(3))
        eventually(lambda: server.stub.ModelReady(pb.ModelReadyRequest(name="later")).ready)
        (repository / "later" / "1" / "model.onnx").unlink()
        (repository / "later" / "1").rmdir()
        (repository / "later").rmdir()
        eventually(lambda: not server.stub.ModelReady(pb.ModelReadyRequest(name="later")).ready)
    assert set(seen) == {1.0, 2.0}


@pytest.mark.parametrize("subdirectory", [".", "7"])
def test_a_model_without_a_repository_is_served_under_the_given_name(tmp_path: Path, transport: str, subdirectory: str) -> None:
    directory = tmp_path / subdirectory
    directory.mkdir(exist_ok=True)
    (directory / "model.onnx").write_bytes(models.add_constant(1).SerializeToString())
    with running(tmp_path, "--model-name=adds", transport=transport) as server:
        assert answer_of(server) == 1
        assert list(server.stub.ModelMetadata(pb.ModelMetadataRequest(name="adds")).versions) == [
            "1" if subdirectory == "." else subdirectory
        ]


def test_a_model_without_a_repository_and_a_name_is_refused_with_the_flag(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(models.add_constant(1).SerializeToString())
    with pytest.raises(AssertionError, match="say what it is called with --model-name"), running(tmp_path):
        pass


def test_an_evicted_model_is_loaded_again_on_request_in_poll_mode(repository: Path) -> None:
    flags = ["--model-control-mode=poll", "--repository-poll-s=1", "--max-loaded-models=1"]
    with running(repository, *flags) as server:
        ready = {entry.name for entry in server.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models}
        (evicted,) = {"adds", "slow"} - ready
        with refused("UNAVAILABLE"):
            server.stub.ModelMetadata(pb.ModelMetadataRequest(name=evicted))
        eventually(lambda: bool(server.stub.ModelReady(pb.ModelReadyRequest(name=evicted)).ready))
