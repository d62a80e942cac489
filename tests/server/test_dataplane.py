from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from turnout_server.config import ModelConfiguration
from turnout_server.dataplane import DataPlane
from turnout_server.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServingError,
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

from tests.server.fakes import AddingSession, Clock

ROW = np.ones((1, 2), np.float32)
Outcome = InferResponse | ServingError


class AddsOnly(Loader):
    """Loads one session, whatever the file."""

    def __init__(self, session: AddingSession) -> None:
        self.session = session

    def load(self, directory: Path, number: int, configuration: ModelConfiguration) -> ModelVersion:
        signature = Signature(self.session.inputs, self.session.outputs, max_batch_size=8)
        return ModelVersion("adds", number, configuration, signature, {"cpu": self.session}, {}, {"cpu": Profile()})


class Served:
    """A data plane over one adding model on one fake device."""

    def __init__(self, root: Path) -> None:
        (root / "adds" / "1").mkdir(parents=True)
        (root / "adds" / "1" / "model.onnx").touch()
        self.session = AddingSession()
        self.clock = Clock()
        self.metrics = Metrics()
        self.changes = Listeners()
        self.executor = Executor("cpu", limit=1, clock=self.clock)
        self.repository = Repository(root, AddsOnly(self.session), changed=self.changes.notify)
        self.dataplane = DataPlane(
            self.repository, {"cpu": self.executor}, {"cuda": "no driver"}, self.metrics, "auto", self.changes, Tracer(None)
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
