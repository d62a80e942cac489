from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from turnout_server.config import ModelConfiguration
from turnout_server.dataplane import DataPlane
from turnout_server.engines import Engines
from turnout_server.errors import (
    DeadlineExceeded,
    DeviceLost,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServingError,
    Unavailable,
)
from turnout_server.loading import Loader, ModelVersion
from turnout_server.messages import InferRequest, InferResponse
from turnout_server.metrics import NOBODY, Metrics
from turnout_server.profiles import Profile
from turnout_server.readiness import Listeners
from turnout_server.repository import Repository
from turnout_server.scheduler import Executor
from turnout_server.signatures import Signature
from turnout_server.tracing import Tracer

from tests.server.fakes import AddingSession, Clock, FakeEngine

ROW = np.ones((1, 2), np.float32)
Outcome = InferResponse | ServingError


class AddsOnly(Loader):
    """Loads these sessions by device, whatever the file."""

    def __init__(self, sessions: dict[str, AddingSession]) -> None:
        self.sessions = sessions

    def load(self, directory: Path, number: int, configuration: ModelConfiguration) -> ModelVersion:
        specs = next(iter(self.sessions.values()))
        signature = Signature(specs.inputs, specs.outputs, max_batch_size=8)
        profiles = {device: Profile() for device in self.sessions}
        return ModelVersion("adds", number, configuration, signature, self.sessions, {}, profiles)


class Served:
    """A data plane over one adding model on fake devices."""

    def __init__(self, root: Path, *others: str, ready_when: str = "any") -> None:
        (root / "adds" / "1").mkdir(parents=True)
        (root / "adds" / "1" / "model.onnx").touch()
        self.session = AddingSession()
        self.clock = Clock()
        self.metrics = Metrics()
        self.changes = Listeners()
        self.executor = Executor("cpu", limit=1, clock=self.clock)
        self.sessions = {"cpu": self.session, **{name: AddingSession() for name in others}}
        self.executors = {"cpu": self.executor, **{name: Executor(name) for name in others}}
        self.engines = {name: FakeEngine(name) for name in self.sessions}
        self.repository = Repository(root, AddsOnly(self.sessions), changed=self.changes.notify)
        self.dataplane = DataPlane(
            self.repository,
            Engines(dict(self.engines), {"cuda": "no driver"}),
            self.executors,
            self.metrics,
            "auto",
            ready_when,
            self.changes,
            Tracer(None),
        )
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()

    def infer(self, model: str = "adds", device: str = "", a: np.ndarray = ROW, deadline_s: float | None = None) -> None:
        request = InferRequest(model, "", "7", {"b": ROW, "a": a}, device=device, deadline_s=deadline_s)
        self.dataplane.infer(request, self.outcomes.put)

    def outcome(self) -> Outcome:
        return self.outcomes.get(timeout=10)

    def hold(self) -> None:
        """Occupies the device until the session's gate is set again."""
        self.session.gate.clear()
        self.infer()
        assert self.session.started.acquire(timeout=10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    served.repository.start()
    yield served
    served.session.gate.set()
    served.executor.stop(timeout_s=10)


def test_a_request_is_answered_with_what_happened_on_the_way(served: Served) -> None:
    served.infer(device="cpu")
    response = served.outcome()
    assert isinstance(response, InferResponse)
    assert (response.model, response.version, response.id) == ("adds", "1", "7")
    np.testing.assert_array_equal(response.outputs["y"], [[2, 2]])
    said = response.parameters
    assert (said["device"], said["device_requested"], said["route_reason"], said["batch_size"]) == (
        "cpu",
        "cpu",
        "requested",
        1,
    )


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"model": "nowhere"}, NotFound),
        ({"a": np.ones((1, 3), np.float32)}, InvalidRequest),
        ({"device": "tpu"}, InvalidRequest),
        ({"device": "cuda"}, FailedPrecondition),
    ],
    ids=["model", "shape", "no device", "absent device"],
)
def test_what_cannot_run_never_reaches_the_device(served: Served, wrong: dict[str, object], error: type[ServingError]) -> None:
    runs = len(served.session.runs)
    served.infer(**wrong)  # type: ignore[arg-type]
    assert isinstance(served.outcome(), error)
    assert len(served.session.runs) == runs


def test_a_full_queue_is_an_answer_and_not_an_exception(served: Served) -> None:
    served.hold()
    served.infer()
    served.infer()
    assert isinstance(served.outcome(), Overloaded)


def test_a_deadline_that_passes_in_the_queue_is_counted_as_such(served: Served) -> None:
    served.hold()
    served.infer(deadline_s=served.clock.now_s + 1)
    served.clock.now_s += 2
    served.session.gate.set()
    outcomes = [served.outcome(), served.outcome()]
    assert [type(outcome) for outcome in outcomes] == [InferResponse, DeadlineExceeded]
    assert served.metrics.totals()["adds", "1", "cpu"].failures == {"DEADLINE_EXCEEDED": 1}


def test_a_session_that_gives_too_few_outputs_is_an_internal_error(served: Served) -> None:
    served.session.run = lambda inputs, outputs: []  # type: ignore[method-assign]
    served.infer()
    assert isinstance(served.outcome(), InternalError)


def test_made_up_names_are_counted_under_one(served: Served) -> None:
    for number in range(3):
        served.infer(model=f"made-up-{number}")
    totals = served.metrics.totals()
    assert totals[NOBODY].failures == {"NOT_FOUND": 3}
    assert len(totals) == 1


def test_it_is_ready_once_the_repository_has_settled_and_until_it_drains(tmp_path: Path) -> None:
    served = Served(tmp_path)
    told: list[bool] = []
    served.changes.add(lambda: told.append(served.dataplane.ready()))
    assert not served.dataplane.ready()
    served.repository.start()
    assert served.dataplane.ready()
    served.dataplane.drain()
    assert (told[0], told[-2], told[-1]) == (False, True, False)
    served.infer()  # it still answers
    assert isinstance(served.outcome(), InferResponse)
    served.executor.stop(timeout_s=10)


class Two(Served):
    """`cpu` and `cpu:other`; the sessions of the devices in `losing` lose whatever they run."""

    def __init__(self, root: Path, ready_when: str = "any") -> None:
        super().__init__(root, "cpu:other", ready_when=ready_when)
        self.repository.start()

    def lose(self, *devices: str) -> None:
        for device in devices:
            self.sessions[device].run = lost  # type: ignore[method-assign]

    def stop(self) -> None:
        for executor in self.executors.values():
            executor.stop(timeout_s=10)


def lost(inputs: object, outputs: object) -> list[np.ndarray]:
    raise DeviceLost("its process ended")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    two = Two(tmp_path)
    yield two
    two.stop()


@pytest.mark.parametrize("device", ["auto", "cpu,cpu:other"])
def test_a_request_that_lost_its_device_is_sent_to_another_once(two: Two, device: str) -> None:
    two.lose("cpu")
    two.infer(device=device)
    outcome = two.outcome()
    assert isinstance(outcome, InferResponse)
    assert (outcome.parameters["device"], outcome.parameters["route_reason"]) == ("cpu:other", "retried")


def test_a_request_that_loses_two_devices_fails(two: Two) -> None:
    two.lose("cpu", "cpu:other")
    two.infer(device="auto")
    assert isinstance(two.outcome(), DeviceLost)


def test_a_request_that_names_its_device_fails_with_it_and_is_never_moved(two: Two) -> None:
    two.lose("cpu:other")
    two.infer(device="cpu:other")
    assert isinstance(two.outcome(), DeviceLost)
    assert two.session.runs == []


def test_a_device_that_restarts_is_passed_over_by_auto_and_fails_who_names_it(two: Two) -> None:
    two.engines["cpu:other"].trouble = DeviceLost("it is restarting")
    two.infer(device="auto")
    outcome = two.outcome()
    assert isinstance(outcome, InferResponse)
    assert outcome.parameters["device"] == "cpu"
    two.infer(device="cpu:other")
    assert isinstance(two.outcome(), Unavailable)


@pytest.mark.parametrize(
    ("ready_when", "broken", "ready"),
    [
        ("any", ["cpu"], True),
        ("any", ["cpu", "cpu:other"], False),
        ("all", [], True),
        ("all", ["cpu:other"], False),
        ("cpu", ["cpu:other"], True),
        ("cpu", ["cpu"], False),
    ],
)
def test_ready_when_says_which_devices_must_work(tmp_path: Path, ready_when: str, broken: list[str], ready: bool) -> None:
    two = Two(tmp_path, ready_when)
    for device in broken:
        two.engines[device].trouble = DeviceLost("it is restarting")
    assert two.dataplane.ready() is ready
    assert two.dataplane.model_ready("adds") is (len(broken) < 2)
    two.stop()
