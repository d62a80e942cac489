"""Explanations of hypothetical requests, compared with what the data plane does with real ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, InvalidRequest, NotFound, ServingError, Unavailable
from turnout_server.core.listeners import Listeners
from turnout_server.core.messages import InferRequest, InferResponse
from turnout_server.core.metrics import Metrics
from turnout_server.core.model_config import ModelConfiguration, Queue
from turnout_server.core.signatures import Signature
from turnout_server.devices.engines import Engines
from turnout_server.explain.answer import DeviceFacts, Explanation, Question
from turnout_server.explain.gather import Explainer, effective_max_batch_reason
from turnout_server.models.loading import Loader
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.per_core import PerCore, Rates
from turnout_server.models.repository import Limits, Repository
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.executor import Executor
from turnout_server.serving.plans import Planner
from turnout_server.serving.selection import Selector
from turnout_server.serving.tracing import Tracer

from tests.server.fakes import AddingSession, FakeEngine, deployment, profile

#: The service time of runs by device and rows.
SERVICE_US = {"cpu": {1: 10_000.0, 8: 80_000.0}, "cuda:0": {1: 2000.0, 8: 4000.0}}
ROW = np.ones((1, 2), np.float32)


class Served:
    """A data plane with one adding model, on a CPU and on a GPU that is faster and more expensive."""

    def __init__(self, root: Path, configuration: ModelConfiguration | None = None) -> None:
        (root / "adds" / "1").mkdir(parents=True)
        (root / "adds" / "1" / "model.onnx").touch()
        self.sessions = {name: AddingSession() for name in SERVICE_US}
        self.engines = {name: FakeEngine(name) for name in SERVICE_US}
        costs = {"cpu": (0.36, 10, 30), "cuda:0": (3.6, 20, 120)}
        for name, (price, idle_w, busy_w) in costs.items():
            device = replace(self.engines[name].device, price_per_hour=price, idle_w=idle_w, busy_w=busy_w)
            self.engines[name].device = device
        metrics = Metrics()
        self.executors = {name: Executor({name: BatchRunner(name, metrics)}) for name in SERVICE_US}
        session = self.sessions["cpu"]
        self.model = ModelVersion(
            "adds",
            1,
            configuration or ModelConfiguration("adds"),
            Signature(session.inputs, session.outputs, max_batch_size=8),
            {
                name: deployment(session, device=name, profile=profile(SERVICE_US[name]))
                for name, session in self.sessions.items()
            },
            {},
        )
        loader = cast("Loader", SimpleNamespace(load=lambda *what: self.model, kinds=lambda: {"cpu", "cuda"}))
        self.repository = Repository(root, loader, limits=Limits(models=1))
        self.repository.start()
        engines = Engines(dict(self.engines), {"coreml": "this is no Mac"})
        planner = Planner(tuple(self.engines), default_device="auto", default_objective="latency")
        selector = Selector(engines, self.executors)
        self.explainer = Explainer(self.repository, engines, self.executors, planner, selector)
        self.dataplane = DataPlane(
            repository=self.repository,
            engines=engines,
            executors=self.executors,
            planner=planner,
            selector=selector,
            metrics=metrics,
            ready_when="any",
            changes=Listeners(),
            tracer=Tracer(None),
        )
        self.outcomes: SimpleQueue[InferResponse | ServingError] = SimpleQueue()

    def infer(self, device: str = "", rows: int = 1) -> None:
        array = np.repeat(ROW, rows, axis=0)
        self.dataplane.infer(InferRequest("adds", "", "", {"a": array, "b": array}, device=device), self.outcomes.put)

    def hold(self, device: str, requests: int = 1) -> None:
        """Lets one request run on a device until `release`, and the others wait there."""
        self.sessions[device].gate.clear()
        self.infer(device)
        assert self.sessions[device].started.acquire(timeout=10)
        for _ in range(requests - 1):
            self.infer(device)

    def release(self) -> None:
        for session in self.sessions.values():
            session.gate.set()

    def explain(self, **question: object) -> Explanation:
        return self.explainer.explain(Question("adds", **question))  # type: ignore[arg-type]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.release()
    for executor in served.executors.values():
        executor.stop(timeout_s=1)


def on(explanation: Explanation, device: str) -> DeviceFacts:
    return next(facts for facts in explanation.devices if facts.name == device)


def test_the_device_and_the_reason_are_those_of_a_real_request(served: Served) -> None:
    for device in ("", "cpu", "cuda:0", "cuda,cpu", "coreml,cpu"):
        explained = served.explain(device=device)
        served.infer(device)
        answer = served.outcomes.get(timeout=10)
        assert isinstance(answer, InferResponse)
        assert (explained.device, explained.reason) == (answer.provenance.device, answer.provenance.route_reason)


def test_explaining_runs_nothing_and_records_nothing(served: Served) -> None:
    assert served.explain().device == "cuda:0"
    assert served.model.last_routes == {}
    assert all(session.runs == [] for session in served.sessions.values())


def test_the_facts_about_a_device_are_complete(served: Served) -> None:
    facts = on(served.explain(rows=8, load_per_s=10.0), "cuda:0")
    assert facts.profile["8"]["service_us"] == 4000
    assert (facts.service_us, facts.predicted_finish_us, facts.cap, facts.problem) == (4000, 4000, 8, "")
    assert facts.cost_per_million == pytest.approx(4e-3 * 1e6 * 3.6 / 3600)
    assert facts.energy_j == pytest.approx(4e-3 * 100)
    assert facts.load is not None
    assert facts.load.utilisation == pytest.approx(10 * 4e-3)


def test_a_load_that_only_a_run_on_each_core_carries_is_carried(served: Served) -> None:
    assert on(served.explain(load_per_s=110.0), "cpu").load.wait_us is None  # type: ignore[union-attr]
    on_cpu = served.model.deployments["cpu"]
    on_cpu.cores, on_cpu.rates = 2, Rates(100.0, 2 / 0.016)
    on_cpu.per_core = PerCore(AddingSession(), 2, profile({1: 16_000.0}))
    facts = on(served.explain(load_per_s=110.0), "cpu")
    assert (facts.cores, facts.per_core, facts.together_per_s, facts.per_core_per_s) == (2, True, 100.0, 125.0)
    assert facts.load is not None
    assert (facts.load.most_per_s, facts.load.batch_rows) == (125.0, 1)
    assert facts.load.wait_us is not None
    hopeless = on(served.explain(load_per_s=1000.0), "cpu").load
    assert hopeless is not None
    assert (hopeless.wait_us, hopeless.most_per_s) == (None, 125.0)


def test_the_queues_are_the_real_ones(served: Served) -> None:
    served.hold("cuda:0", requests=3)
    facts = on(served.explain(), "cuda:0")
    assert (facts.waiting, facts.running) == (2, 1)
    assert facts.predicted_finish_us is not None
    assert facts.predicted_finish_us > 2000


def test_the_imposed_delay_is_given_for_each_device_with_recent_arrivals(served: Served) -> None:
    assert on(served.explain(), "cuda:0").delay_us is None
    served.infer("cuda:0")
    served.outcomes.get(timeout=10)
    seen = served.explain()
    assert (on(seen, "cuda:0").delay_us or 0) > 0
    assert on(seen, "cpu").delay_us is None


def test_a_busy_gpu_spills_to_the_cpu(served: Served) -> None:
    for rows in (1, 8):
        served.model.deployments["cuda:0"].profile.measure(rows, [8000.0] * 5)
    served.hold("cuda:0", requests=2)
    explained = served.explain()
    assert (explained.device, explained.reason) == ("cpu", "spill")


def test_the_objective_decides_between_devices(served: Served) -> None:
    assert served.explain(objective="cost").device == "cpu"
    assert served.explain(objective="cost").reason == "cheapest-in-time"
    assert served.explain(objective="cost", deadline_us=5000.0).device == "cuda:0"


def test_a_deadline_that_no_device_can_meet_is_refused_with_the_reasons(served: Served) -> None:
    explained = served.explain(deadline_us=100.0)
    assert (explained.device, explained.reason, explained.predicted_us) == ("", "", None)
    assert "cpu" in explained.problem
    assert all("the deadline is in" in facts.problem for facts in explained.devices)


def test_a_device_that_the_request_excludes_is_shown_as_not_asked_for(served: Served) -> None:
    explained = served.explain(device="cpu")
    assert [(facts.name, facts.asked) for facts in explained.devices] == [("cpu", True), ("cuda:0", False)]
    assert on(explained, "cuda:0").predicted_finish_us == 2000


def test_an_unavailable_device_is_shown_with_the_reason(served: Served) -> None:
    served.engines["cuda:0"].trouble = Unavailable("it restarts")
    explained = served.explain()
    assert (explained.device, explained.reason, on(explained, "cuda:0").problem) == ("cpu", "only-device", "it restarts")


def test_a_device_without_the_model_is_shown_with_the_reason(served: Served) -> None:
    only = {"cpu": served.model.deployments["cpu"]}
    served.model = replace(served.model, deployments=only, unavailable={"cuda:0": FailedPrecondition("not allowed")})
    served.repository.load("adds")
    assert on(served.explain(), "cuda:0") == DeviceFacts("cuda:0", asked=True, problem="not allowed")


def test_values_that_were_never_measured_are_none(served: Served) -> None:
    served.model = replace(served.model, deployments={name: deployment(device=name) for name in SERVICE_US})
    served.repository.load("adds")
    facts = on(served.explain(load_per_s=10.0), "cpu")
    assert (facts.service_us, facts.predicted_finish_us, facts.cost_per_million, facts.energy_j, facts.load) == (None,) * 5


@pytest.mark.parametrize(
    ("question", "words"),
    [({"rows": 9}, "must be <= 8"), ({"version": "x"}, "not a number"), ({"device": "tpu"}, "this server has: cpu, cuda:0")],
)
def test_a_question_that_no_request_could_ask_is_refused(served: Served, question: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        served.explain(**question)


def test_an_unknown_model_is_not_found(served: Served) -> None:
    with pytest.raises(NotFound):
        served.explainer.explain(Question("other"))


def test_explaining_does_not_reload_an_evicted_model(served: Served, tmp_path: Path) -> None:
    (tmp_path / "more" / "1").mkdir(parents=True)
    served.repository.load("more")
    with pytest.raises(Unavailable, match="unloaded to make room"):
        served.explain()
    assert not served.repository.is_ready("adds")


def test_several_rows_of_a_model_without_batches_are_refused(served: Served) -> None:
    signature = replace(served.model.signature, max_batch_size=0)
    served.model = replace(served.model, signature=signature)
    served.repository.load("adds")
    with pytest.raises(InvalidRequest, match="takes no batches"):
        served.explain(rows=2)


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({}, {}, "max_batch_size"),
        ({"profile": profile({1: 100, 2: 190, 4: 380, 8: 760})}, {}, "not be worth its wait"),
        ({"profile": profile({1: 100, 2: 110, 4: 120, 8: 140}), "target_us": 115}, {}, "latency target of 0.115 ms"),
        ({"queue": Queue(preferred_rows=(4,)), "max_rows": 4}, {}, "preferred_batch_size"),
        ({"batchable": False}, {}, "could not be shown"),
        (
            {"batchable": False},
            {"configuration": ModelConfiguration("adds", batches=False)},
            "turnout.batching",
        ),
        ({"batchable": False}, {"signature": Signature((), (), 0)}, "takes no batches"),
    ],
)
def test_the_batch_limit_comes_with_its_reason(
    served: Served, options: dict[str, object], changes: dict[str, object], words: str
) -> None:
    model = replace(served.model, **changes)  # type: ignore[arg-type]
    assert words in effective_max_batch_reason(model, deployment(**options))  # type: ignore[arg-type]
