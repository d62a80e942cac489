"""What is worked out once for requests that are alike, and when it holds no longer."""

from weakref import ref

import numpy as np
import pytest
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.errors import InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import ModelConfiguration, Queue, QueuePolicy
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import ModelVersion
from turnout_server.serving.plans import Plan, plan_for

from tests.server.fakes import AddingSession

DEVICES = ("cpu", "cpu:other", "cuda:0")


def version(**configured: object) -> ModelVersion:
    """A model with two outputs, on one device in half precision."""
    x, y, z = (TensorSpec(name, DATATYPES["FP32"], (-1, 2)) for name in "xyz")
    deployment = Deployment(("m", "3", "cpu:other"), AddingSession(), precision="fp16")
    configuration = ModelConfiguration("m", **configured)  # type: ignore[arg-type]
    return ModelVersion("m", 3, configuration, Signature((x,), (y, z), 8), {"cpu:other": deployment}, {})


def ask(rows: int = 2, **said: object) -> InferRequest:
    return InferRequest("m", "", "", {"x": np.zeros((rows, 2), np.float32)}, **said)  # type: ignore[arg-type]


def plan(request: InferRequest, model: ModelVersion) -> Plan:
    return plan_for(request, model, DEVICES, "auto", "latency")


def test_a_request_that_says_nothing_gets_all_outputs_anywhere() -> None:
    made = plan(ask(rows=3), version())
    assert (made.rows, made.outputs, made.requested, made.goal) == (3, ("y", "z"), "auto", "latency")
    assert (made.entries, made.only) == ((("auto", DEVICES),), "")


def test_outputs_come_in_the_order_of_the_model() -> None:
    assert plan(ask(outputs=("z", "y")), version()).outputs == ("y", "z")


@pytest.mark.parametrize(
    ("device", "configured", "only"),
    [
        ("cuda", "", "cuda:0"),
        ("", "cpu:other", "cpu:other"),
        ("cuda", "cpu:other", "cuda:0"),
        ("auto", "", ""),
        ("cuda,cpu", "", ""),
        ("cpu", "", "cpu"),
    ],
)
def test_who_may_run_on_one_device_only(device: str, configured: str, only: str) -> None:
    assert plan(ask(device=device), version(default_device=configured)).only == only


def test_the_only_device_of_a_server_is_no_wish() -> None:
    made = plan_for(ask(), version(), ("cpu",), "auto", "latency")
    assert (made.only, made.only_reason) == ("cpu", "only-device")
    assert plan(ask(device="cpu"), version()).only_reason == "requested"


def test_what_does_not_fit_the_model_gets_no_plan() -> None:
    with pytest.raises(InvalidRequest, match="batch-size must be <= 8"):
        plan(ask(rows=9), version())
    with pytest.raises(InvalidRequest, match="tpu"):
        plan(ask(device="tpu"), version())


def test_a_plan_holds_for_the_same_words_and_the_same_version() -> None:
    model = version()
    made = plan(ask(device="cpu"), model)
    assert made.fits(ask(device="cpu"), model)
    assert not made.fits(ask(device="cuda"), model)
    assert not made.fits(ask(device="cpu", objective="cost"), model)
    assert not made.fits(ask(device="cpu"), version())


@pytest.mark.parametrize(
    ("policy", "finish_us", "begin_us"),
    [
        (QueuePolicy(), 5000, 5000),
        (QueuePolicy(timeout_us=3000), 5000, 3000),
        (QueuePolicy(timeout_us=3000, timeout_override=False), None, 3000),
    ],
)
def test_a_timeout_counts_as_the_model_lets_it(policy: QueuePolicy, finish_us: int | None, begin_us: int | None) -> None:
    made = plan(ask(timeout_us=5000), version(queue=Queue(policy=policy)))
    assert (made.policy, made.finish_us, made.begin_us) == (policy, finish_us, begin_us)


def test_an_answer_says_where_it_comes_from() -> None:
    model = version()
    made = plan(ask(device="cpu"), model)
    origin = made.origin(model.deployments["cpu:other"], "retried")
    assert origin == ("m", "3", "cpu:other", "cpu", "retried", "fp16")
    assert made.origin(model.deployments["cpu:other"], "retried") is origin


def test_a_plan_keeps_no_model_loaded() -> None:
    model = version()
    request, unloaded = ask(), ref(model)
    request.layout.plan = plan(request, model)
    del model
    assert unloaded() is None
    assert not request.layout.plan.fits(request, version())
