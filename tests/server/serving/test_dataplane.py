import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any
from weakref import ref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnout_server.core.errors import (
    Cancelled,
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
from turnout_server.core.listeners import Listeners
from turnout_server.core.messages import InferRequest, InferResponse, Layout, Provenance
from turnout_server.core.metrics import NOBODY, Metrics, Series
from turnout_server.core.model_config import ModelConfiguration, Queue, QueuePolicy
from turnout_server.core.signatures import Signature
from turnout_server.devices.engines import Engine, Engines
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import Loader
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.repository import Repository
from turnout_server.scheduling.routing import COST, ENERGY, LATENCY
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.executor import Executor
from turnout_server.serving.plans import Planner
from turnout_server.serving.selection import Selector
from turnout_server.serving.tracing import Tracer

from tests.server.fakes import AddingSession, Clock, FakeEngine, FakeObserver, deployment

ROW = np.ones((1, 2), np.float32)
Outcome = InferResponse | ServingError


class AddsOnly(Loader):
    """Loads these deployments by device, whatever the file has."""

    def __init__(self, engines: Mapping[str, Engine], deployments: dict[str, Deployment], **settings: Any) -> None:
        super().__init__(engines, ProfileStore(None))
        self.deployments = deployments
        self.settings = settings

    def load(self, directory: Path, number: int, configuration: ModelConfiguration) -> ModelVersion:
        specs = next(iter(self.deployments.values())).session
        signature = Signature(specs.inputs, specs.outputs, max_batch_size=8)
        return ModelVersion("adds", number, replace(configuration, **self.settings), signature, self.deployments, {})


class Served:
    """A data plane with one adding model on fake devices; `settings` are the model's configuration."""

    def __init__(
        self,
        root: Path,
        *others: str,
        ready_when: str = "any",
        limit: int = 1,
        default_objective: str = LATENCY,
        **settings: Any,
    ) -> None:
        (root / "adds" / "1").mkdir(parents=True)
        (root / "adds" / "1" / "model.onnx").touch()
        self.session = AddingSession()
        self.clock = Clock()
        self.metrics = Metrics()
        self.changes = Listeners()
        self.executor = Executor({"cpu": BatchRunner("cpu", self.metrics, self.clock)}, limit=limit, clock=self.clock)
        self.sessions = {"cpu": self.session, **{name: AddingSession() for name in others}}
        self.executors = {"cpu": self.executor, **{name: Executor({name: BatchRunner(name, self.metrics)}) for name in others}}
        self.engines = {name: FakeEngine(name) for name in self.sessions}
        self.deployments = {name: deployment(session, device=name) for name, session in self.sessions.items()}
        self.repository = Repository(root, AddsOnly(self.engines, self.deployments, **settings))
        self.repository.observer = FakeObserver(self.changes.notify)
        engines = Engines(dict(self.engines), {"cuda": "no driver"})
        self.dataplane = DataPlane(
            repository=self.repository,
            engines=engines,
            executors=self.executors,
            planner=Planner(tuple(self.engines), "auto", default_objective),
            selector=Selector(engines, self.executors),
            metrics=self.metrics,
            ready_when=ready_when,
            changes=self.changes,
            tracer=Tracer(None),
        )
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()

    def infer(
        self, model: str = "adds", device: str = "", a: np.ndarray = ROW, id: str = "7", **options: Any
    ) -> Callable[[], None]:
        request = InferRequest(model, "", id, {"b": np.ones_like(a), "a": a}, device=device, **options)
        return self.dataplane.infer(request, self.outcomes.put)

    def takes(self, service_us: float, device: str = "cpu") -> None:
        """Sets a device's measured service time, the same for one row and for eight."""
        for rows in (1, 8):
            self.deployments[device].profile.measure(rows, [service_us] * 5)
        self.deployments[device].review_batch_size()

    def counted(self, device: str = "cpu") -> Series:
        """The device's counters after all its runs; it takes no more requests."""
        self.executors[device].stop(timeout_s=10)
        return self.metrics.totals()["adds", "1", device]

    def stop(self) -> None:
        for session in self.sessions.values():
            session.gate.set()
        for executor in self.executors.values():
            executor.stop(timeout_s=10)

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
    served.stop()


def test_an_answer_has_its_provenance_and_timings(served: Served) -> None:
    served.infer(device="cpu")
    response = served.outcome()
    assert isinstance(response, InferResponse)
    assert response.provenance == Provenance("adds", "1", "cpu", "cpu", "requested", "fp32")
    assert (response.id, response.timings["batch_size"]) == ("7", 1)
    np.testing.assert_array_equal(response.outputs["y"], [[2, 2]])


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
def test_a_request_that_cannot_run_never_reaches_the_device(
    served: Served, wrong: dict[str, object], error: type[ServingError]
) -> None:
    runs = len(served.session.runs)
    served.infer(**wrong)  # type: ignore[arg-type]
    assert isinstance(served.outcome(), error)
    assert len(served.session.runs) == runs


def test_requests_that_were_served_keep_no_reference_to_an_unloaded_model(served: Served) -> None:
    layout = Layout({"a": ROW, "b": ROW}, ())
    for _ in range(2):
        served.infer(layout=layout)
        assert isinstance(served.outcome(), InferResponse)
    version, deployment_ = ref(served.repository.find("adds")), ref(served.deployments.pop("cpu"))
    served.repository.unload("adds")
    deadline_s = time.monotonic() + 10
    while (version() or deployment_()) and time.monotonic() < deadline_s:  # the worker may not wait yet
        time.sleep(0.01)
        gc.collect()
    assert (version(), deployment_()) == (None, None)


def test_a_full_queue_is_reported_as_an_outcome_and_not_raised(served: Served) -> None:
    served.hold()
    served.infer()
    served.infer()
    assert isinstance(served.outcome(), Overloaded)


def test_a_deadline_that_passes_in_the_queue_is_counted(served: Served) -> None:
    served.hold()
    served.infer(deadline_s=served.clock.now_s + 1)
    served.clock.now_s += 2
    served.session.gate.set()
    outcomes = [served.outcome(), served.outcome()]
    assert [type(outcome) for outcome in outcomes] == [InferResponse, DeadlineExceeded]
    assert served.counted().failures == {"DEADLINE_EXCEEDED": 1}


def test_a_request_cancelled_while_it_waits_is_counted_and_not_run(served: Served) -> None:
    served.hold()
    served.infer(id="gone")()
    served.session.gate.set()
    assert [type(served.outcome()) for _ in range(2)] == [InferResponse, Cancelled]
    assert served.counted().failures == {"CANCELLED": 1}
    assert served.session.runs == [1]


FATES = st.lists(st.sampled_from(["no deadline", "in time", "too late", "gone"]), max_size=12)


@settings(max_examples=50, deadline=None)
@given(FATES)
def test_every_request_completes_once_and_every_dropped_one_is_counted(fates: list[str]) -> None:
    with TemporaryDirectory() as directory:
        served = Served(Path(directory), limit=100)
        served.repository.start()
        served.hold()
        for fate in fates:
            wait_s = {"in time": 1e6, "too late": 1.0}.get(fate)
            gone = served.infer(id=fate, deadline_s=None if wait_s is None else served.clock.now_s + wait_s)
            if fate == "gone":
                gone()
        served.clock.now_s += 2
        served.session.gate.set()
        answered = sum(isinstance(served.outcome(), InferResponse) for _ in range(1 + len(fates)))
        counted = served.counted()
        served.stop()

    assert served.outcomes.empty()
    assert answered == sum(counted.request_s.counts) == 1 + fates.count("no deadline") + fates.count("in time")
    drops = {"DEADLINE_EXCEEDED": fates.count("too late"), "CANCELLED": fates.count("gone")}
    assert counted.failures == {code: number for code, number in drops.items() if number}


def test_too_few_outputs_of_a_session_are_an_internal_error(served: Served) -> None:
    served.session.run = lambda inputs, outputs: []  # type: ignore[method-assign]
    served.infer()
    assert isinstance(served.outcome(), InternalError)


def test_unknown_model_names_share_one_series(served: Served) -> None:
    for number in range(3):
        served.infer(model=f"made-up-{number}")
    totals = served.metrics.totals()
    assert totals[NOBODY].failures == {"NOT_FOUND": 3}
    assert len(totals) == 1


def test_a_request_for_a_precision_that_a_model_does_not_have_is_a_failure_of_that_model(served: Served) -> None:
    served.infer(precision="int3")
    assert isinstance(served.outcome(), FailedPrecondition)
    assert served.metrics.totals()["adds", "1", ""].failures == {"FAILED_PRECONDITION": 1}
    assert NOBODY not in served.metrics.totals()


def test_the_data_plane_is_ready_from_when_the_repository_settles_until_it_drains(tmp_path: Path) -> None:
    served = Served(tmp_path)
    seen: list[bool] = []
    served.changes.add(lambda: seen.append(served.dataplane.ready()))
    assert not served.dataplane.ready()
    served.repository.start()
    assert served.dataplane.ready()
    served.dataplane.drain()
    assert (seen[0], seen[-2], seen[-1]) == (False, True, False)
    served.infer()  # it still answers
    assert isinstance(served.outcome(), InferResponse)
    served.stop()


class Two(Served):
    """Two devices, `cpu` and `cpu:other`; runs on those that `lose` names fail because the device is lost."""

    def __init__(self, root: Path, ready_when: str = "any", **settings: Any) -> None:
        super().__init__(root, "cpu:other", ready_when=ready_when, **settings)
        self.repository.start()

    def lose(self, *devices: str) -> None:
        for device in devices:
            self.sessions[device].run = lost  # type: ignore[method-assign]


def lost(inputs: object, outputs: object) -> list[np.ndarray]:
    raise DeviceLost("its process ended")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    two = Two(tmp_path)
    yield two
    two.stop()


@pytest.mark.parametrize("device", ["auto", "cpu,cpu:other"])
def test_a_request_whose_device_is_lost_is_retried_on_another_once(two: Two, device: str) -> None:
    two.lose("cpu")
    two.infer(device=device)
    outcome = two.outcome()
    assert isinstance(outcome, InferResponse)
    assert (outcome.provenance.device, outcome.provenance.route_reason) == ("cpu:other", "retried")


def test_a_request_that_loses_two_devices_fails(two: Two) -> None:
    two.lose("cpu", "cpu:other")
    two.infer(device="auto")
    assert isinstance(two.outcome(), DeviceLost)


def test_a_request_that_names_its_device_is_never_moved_when_it_is_lost(two: Two) -> None:
    two.lose("cpu:other")
    two.infer(device="cpu:other")
    assert isinstance(two.outcome(), DeviceLost)
    assert two.session.runs == []


def test_auto_passes_over_a_restarting_device_and_requests_that_name_it_fail(two: Two) -> None:
    two.engines["cpu:other"].trouble = DeviceLost("it is restarting")
    two.infer(device="auto")
    outcome = two.outcome()
    assert isinstance(outcome, InferResponse)
    assert outcome.provenance.device == "cpu"
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


def test_an_answer_has_the_predicted_time_and_the_precision(served: Served) -> None:
    served.takes(5000)
    served.infer()
    outcome = served.outcome()
    assert isinstance(outcome, InferResponse)
    assert (outcome.timings["predicted_us"], outcome.provenance.precision) == (5000, "fp32")


def test_without_a_measurement_nothing_is_predicted(served: Served) -> None:
    served.infer()
    outcome = served.outcome()
    assert isinstance(outcome, InferResponse)
    assert "predicted_us" not in outcome.timings
    counted = served.counted()
    assert (sum(counted.prediction.counts), counted.answered) == (0, 1)


def test_routes_are_counted_by_reason_and_predictions_by_their_error(served: Served) -> None:
    served.takes(3600e6)  # a run takes less than a millionth of that
    for device in ("", "cpu"):
        served.infer(device=device)
        served.outcome()
    counted = served.counted()
    assert counted.reasons == {"only-device": 1, "requested": 1}
    assert counted.prediction.counts == [2] + [0] * (len(counted.prediction.counts) - 1)


@pytest.mark.parametrize("how", ["a deadline", "a timeout"])
def test_a_request_that_cannot_finish_in_time_is_refused_at_once_with_the_predicted_time(served: Served, how: str) -> None:
    served.takes(50_000)
    now_s = time.monotonic()
    if how == "a deadline":
        served.infer(deadline_s=now_s + 0.02)
    else:
        served.infer(arrived_s=now_s, timeout_us=20_000)
    outcome = served.outcome()
    assert isinstance(outcome, Overloaded)
    assert str(outcome).startswith("device 'cpu' would take at least 50.0 ms (predicted 50.0 ms), and the deadline is in ")
    assert served.session.runs == []
    assert served.metrics.totals()["adds", "1", ""].failures == {"RESOURCE_EXHAUSTED": 1}


def test_a_request_that_may_finish_in_time_is_tried(served: Served) -> None:
    served.takes(50_000)
    served.deployments["cpu"].profile.observe(1, 10)  # one run was that fast
    served.infer(deadline_s=time.monotonic() + 0.045)
    served.executor.stop(timeout_s=10)
    assert not isinstance(served.outcome(), Overloaded)


LEVELS = Queue(
    levels=3,
    default_level=2,
    policy=QueuePolicy(max_size=2),
    policies={1: QueuePolicy(max_size=1), 3: QueuePolicy(timeout_us=1000, timeout_override=False)},
)


@pytest.fixture
def levels(tmp_path: Path) -> Iterator[Served]:
    """A model with three priorities whose requests run one at a time."""
    served = Served(tmp_path, limit=100, queue=LEVELS)
    served.deployments["cpu"].max_rows = 1
    served.repository.start()
    yield served
    served.stop()


def test_each_priority_has_a_limit_of_its_own(levels: Served) -> None:
    levels.hold()
    for priority, accepted in [(1, 1), (0, 2), (9, 0)]:  # no priority, or one that doesn't exist, is the default one
        for _ in range(accepted):
            levels.infer(priority=priority)
        levels.infer(priority=priority)
        outcome = levels.outcome()
        assert isinstance(outcome, Overloaded)
        assert f"{1 if priority == 1 else 2} requests wait for this model" in str(outcome)


def test_more_urgent_requests_are_answered_first(levels: Served) -> None:
    levels.hold()
    for priority in (2, 3, 1):
        levels.infer(priority=priority, id=str(priority), arrived_s=levels.clock.now_s)
    levels.session.gate.set()
    outcomes = [levels.outcome() for _ in range(4)]
    assert [outcome.id for outcome in outcomes if isinstance(outcome, InferResponse)] == ["7", "1", "2", "3"]


def test_each_priority_has_its_own_timeout_which_requests_shorten_only_if_allowed(levels: Served) -> None:
    levels.hold()
    now_s = levels.clock.now_s
    levels.infer(priority=1, id="no timeout", arrived_s=now_s)
    levels.infer(priority=2, id="shorter", arrived_s=now_s, timeout_us=500)
    levels.infer(priority=3, id="unchanged", arrived_s=now_s, timeout_us=500)
    levels.clock.now_s += 600e-6
    levels.session.gate.set()
    outcomes = [levels.outcome() for _ in range(4)]
    assert {outcome.id for outcome in outcomes if isinstance(outcome, InferResponse)} == {"7", "no timeout", "unchanged"}
    assert levels.counted().failures == {"DEADLINE_EXCEEDED": 1}


def test_a_priority_whose_timeout_has_passed_expires(levels: Served) -> None:
    levels.hold()
    levels.infer(priority=3, arrived_s=levels.clock.now_s)
    levels.clock.now_s += 1001e-6
    levels.session.gate.set()
    assert [type(levels.outcome()) for _ in range(2)] == [InferResponse, DeadlineExceeded]


def test_a_precision_without_a_file_is_refused_with_what_there_is(served: Served) -> None:
    served.infer(precision="banana")
    outcome = served.outcome()
    assert isinstance(outcome, FailedPrecondition)
    assert str(outcome) == (
        "model 'adds' has no banana file: there is fp32 on 'cpu' (turnout.variants in config.pbtxt lists others)"
    )
    served.infer(precision="fp32")
    assert isinstance(served.outcome(), InferResponse)


def test_a_precision_restricts_auto_and_never_moves_a_named_device(two: Two) -> None:
    two.deployments["cpu:other"].precision = "fp16"
    two.infer(precision="fp16")
    outcome = two.outcome()
    assert isinstance(outcome, InferResponse)
    assert (outcome.provenance.device, outcome.provenance.precision) == ("cpu:other", "fp16")
    two.infer(device="cpu", precision="fp16")
    assert isinstance(two.outcome(), FailedPrecondition)


def routed(two: Two, **options: Any) -> tuple[str, str]:
    """The device and the reason of a request's answer."""
    two.infer(**options)
    outcome = two.outcome()
    assert isinstance(outcome, InferResponse), outcome
    return outcome.provenance.device, outcome.provenance.route_reason


def test_auto_takes_the_device_with_the_earliest_predicted_finish(two: Two) -> None:
    two.takes(2000)
    two.takes(1000, "cpu:other")
    assert routed(two) == ("cpu:other", "earliest")
    assert routed(two, device="cpu") == ("cpu", "requested")
    assert routed(two, device="cpu,auto") == ("cpu", "preference")


def test_near_ties_stay_with_the_last_device(two: Two) -> None:
    for cpu_us, other_us, device in [
        (1000, 1050, "cpu"),
        (1050, 1000, "cpu"),
        (1500, 1000, "cpu:other"),
        (950, 1000, "cpu:other"),
    ]:
        two.takes(cpu_us)
        two.takes(other_us, "cpu:other")
        assert routed(two)[0] == device


def test_auto_spills_over_from_a_full_queue(two: Two) -> None:
    two.takes(1000)
    two.takes(1_000_000, "cpu:other")
    two.hold()
    two.infer(device="cpu")  # fills the queue
    assert routed(two) == ("cpu:other", "spill")
    assert routed(two, device="cpu,cpu:other") == ("cpu:other", "spill")


def test_auto_keeps_a_long_run_off_a_device_where_it_would_make_others_miss_deadlines(two: Two) -> None:
    two.takes(1000, "cpu:other")
    for _ in range(200):
        two.infer(device="cpu:other", deadline_s=time.monotonic() + 0.012)
        two.outcome()
    two.takes(30_000, "cpu:other")
    two.takes(40_000)
    assert routed(two)[0] == "cpu"

    two.takes(400_000)
    two.infer(deadline_s=time.monotonic() + 0.3)
    refused = two.outcome()
    assert isinstance(refused, Overloaded)
    assert "device 'cpu:other' would be held for 30.0 ms" in str(refused)
    assert routed(two, device="cpu:other", deadline_s=time.monotonic() + 0.3) == ("cpu:other", "requested")


def test_cost_and_energy_take_the_cheapest_device_that_is_in_time(two: Two) -> None:
    two.takes(1000)
    two.takes(30_000, "cpu:other")
    two.engines["cpu"].device = replace(two.engines["cpu"].device, price_per_hour=3, idle_w=20, busy_w=120)
    two.engines["cpu:other"].device = replace(two.engines["cpu:other"].device, price_per_hour=0.05, idle_w=2, busy_w=4)
    assert routed(two) == ("cpu", "earliest")
    for objective in (COST, ENERGY):
        assert routed(two, objective=objective) == ("cpu:other", "cheapest-in-time")
        two.takes(30_000, "cpu:other")  # as before that request's run was recorded
        in_time = {"objective": objective, "deadline_s": time.monotonic() + 0.02}
        assert routed(two, **in_time) == ("cpu", "only-device")


def test_a_latency_target_excludes_a_cheap_device_that_is_too_slow(tmp_path: Path) -> None:
    two = Two(tmp_path, latency_target_us=20_000)
    two.takes(1000)
    two.takes(30_000, "cpu:other")
    for name, price in [("cpu", 3.0), ("cpu:other", 0.05)]:
        two.engines[name].device = replace(two.engines[name].device, price_per_hour=price)
    assert routed(two, objective=COST) == ("cpu", "cheapest-in-time")
    two.stop()


@pytest.mark.parametrize(
    ("servers", "models", "requests", "effective"),
    [
        (COST, "", "", COST),
        (LATENCY, COST, "", COST),
        (LATENCY, COST, ENERGY, ENERGY),
        (COST, LATENCY, "", LATENCY),
        (COST, ENERGY, LATENCY, LATENCY),
    ],
)
def test_the_requests_objective_overrides_the_models_and_that_the_servers(
    tmp_path: Path, servers: str, models: str, requests: str, effective: str
) -> None:
    two = Two(tmp_path, default_objective=servers, objective=models)
    two.takes(1000)
    two.takes(1000, "cpu:other")
    two.infer(objective=requests)
    outcome = two.outcome()
    if effective == LATENCY:
        assert isinstance(outcome, InferResponse)
    else:
        assert isinstance(outcome, FailedPrecondition)
        assert f"the objective '{effective}' needs" in str(outcome)  # no prices or watts are set
    two.stop()


def test_an_answer_that_cannot_be_delivered_counts_as_a_failure_and_not_as_an_answer(served: Served) -> None:
    received: SimpleQueue[Outcome] = SimpleQueue()

    def done(outcome: Outcome) -> ServingError | None:
        received.put(outcome)
        return InvalidRequest("the region is too small")

    served.dataplane.infer(InferRequest("adds", "", "7", {"a": ROW, "b": ROW}), done)
    assert isinstance(received.get(timeout=10), InferResponse)
    counted = served.counted()
    assert (counted.failures, counted.answered) == ({"INVALID_ARGUMENT": 1}, 0)


@pytest.mark.parametrize(("model", "key"), [("adds", ("adds", "1", "")), ("other", NOBODY)])
def test_a_rejected_request_counts_for_its_model_if_that_exists(served: Served, model: str, key: tuple[str, str, str]) -> None:
    served.dataplane.rejected(model, "", InvalidRequest("unknown objective"), time.monotonic())
    assert served.metrics.totals()[key].failures == {"INVALID_ARGUMENT": 1}
