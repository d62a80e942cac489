"""The forecasts that routing decides by, with and without an inline runner."""

import numpy as np
import pytest
from turnout_server.core.messages import InferRequest
from turnout_server.core.metrics import Metrics
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.core.signatures import Signature
from turnout_server.devices.engines import Engines
from turnout_server.models.model_version import ModelVersion
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.executor import Executor
from turnout_server.serving.flight import Flight
from turnout_server.serving.inline import InlineRunner
from turnout_server.serving.job import Job
from turnout_server.serving.plans import Planner
from turnout_server.serving.selection import Selector

from tests.server.fakes import AddingSession, FakeEngine, deployment, profile

ROW = np.ones((1, 2), np.float32)


class Host:
    """A CPU with a model whose runs take `run_us`; another model's run occupies it if `held`."""

    def __init__(self, run_us: float, *, held: bool) -> None:
        self.session = AddingSession()
        runner = BatchRunner("cpu", Metrics())
        self.executor = Executor({"cpu": runner})
        self.inline = InlineRunner({"cpu": runner})
        self.model = ModelVersion(
            "adds",
            1,
            ModelConfiguration("adds"),
            Signature(self.session.inputs, self.session.outputs, max_batch_size=8),
            {"cpu": deployment(self.session, profile=profile({1: run_us}))},
            {},
        )
        engines = Engines({"cpu": FakeEngine("cpu")}, {})
        self.planner, self.selector = Planner(("cpu",), "auto", "latency"), Selector(engines, {"cpu": self.executor})
        if held:
            other = deployment(self.session, "other", profile=profile({1: 5000.0}))
            self.session.gate.clear()
            self.executor.submit(Job(other, {"a": ROW, "b": ROW}, ("y",), 1, "k", lambda outcome: None))
            assert self.session.started.acquire(timeout=10)

    def wait_us(self, *, inline: bool) -> float | None:
        request = InferRequest("adds", "", "", {"a": ROW, "b": ROW})
        flight = Flight(request, lambda outcome: None, self.model, self.inline if inline else None)
        return self.selector.forecast("cpu", flight, self.planner.plan(request, self.model), choice=False).wait_us

    def stop(self) -> None:
        self.session.gate.set()
        self.executor.stop(timeout_s=10)


@pytest.mark.parametrize(
    ("run_us", "inline", "waits"),
    [(10.0, True, False), (10.0, False, True), (5000.0, True, True)],
    ids=["short", "short, in another thread", "long"],
)
def test_only_a_short_job_of_the_transports_thread_skips_the_queue_in_its_forecast(
    run_us: float, inline: bool, waits: bool
) -> None:
    host = Host(run_us, held=True)
    try:
        assert (host.wait_us(inline=inline) != 0) is waits
    finally:
        host.stop()


def test_an_idle_device_has_no_predicted_wait() -> None:
    host = Host(5000.0, held=False)
    assert host.wait_us(inline=False) == 0
    host.stop()
