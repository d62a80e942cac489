"""Plans: what they say, how long they hold, and which requests share one."""

from weakref import ref

import numpy as np
import pytest
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.errors import InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import ModelConfiguration, Queue, QueuePolicy
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.serving.plans import Plan, Planner

from tests.server.fakes import AddingSession

DEVICES = ("cpu", "cpu:other", "cuda:0")


def version(**configured: object) -> ModelVersion:
    """A model with two outputs, on one device in half precision."""
    x, y, z = (TensorSpec(name, DATATYPES["FP32"], (-1, 2)) for name in "xyz")
    deployment = Deployment(("m", "3", "cpu:other"), AddingSession(), precision="fp16")
    configuration = ModelConfiguration("m", **configured)  # type: ignore[arg-type]
    return ModelVersion("m", 3, configuration, Signature((x,), (y, z), 8), {"cpu:other": deployment}, {})


def ask(rows: int = 2, **options: object) -> InferRequest:
    return InferRequest("m", "", "", {"x": np.zeros((rows, 2), np.float32)}, **options)  # type: ignore[arg-type]


def plan(request: InferRequest, model: ModelVersion) -> Plan:
    return Planner(DEVICES, "auto", "latency").plan(request, model)


def test_a_request_without_parameters_gets_all_outputs_on_any_device() -> None:
    made = plan(ask(rows=3), version())
    assert (made.rows, made.outputs, made.requested, made.effective_objective) == (3, ("y", "z"), "auto", "latency")
    assert (made.targets.entries, made.targets.only) == ((("auto", DEVICES),), "")


def test_outputs_are_in_the_order_of_the_model() -> None:
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
def test_one_possible_device_is_recognised(device: str, configured: str, only: str) -> None:
    assert plan(ask(device=device), version(default_device=configured)).targets.only == only


def test_the_only_device_of_a_server_has_the_reason_only_device() -> None:
    made = Planner(("cpu",), "auto", "latency").plan(ask(), version())
    assert (made.targets.only, made.targets.only_reason) == ("cpu", "only-device")
    assert plan(ask(device="cpu"), version()).targets.only_reason == "requested"


def test_a_request_that_does_not_fit_the_model_gets_no_plan() -> None:
    with pytest.raises(InvalidRequest, match="batch-size must be <= 8"):
        plan(ask(rows=9), version())
    with pytest.raises(InvalidRequest, match="tpu"):
        plan(ask(device="tpu"), version())


def test_a_plan_holds_for_the_same_parameters_and_model_version() -> None:
    model = version()
    made = plan(ask(device="cpu"), model)
    assert made.fits(ask(device="cpu"), model)
    assert not made.fits(ask(device="cuda"), model)
    assert not made.fits(ask(device="cpu", objective="cost"), model)
    assert not made.fits(ask(device="cpu"), version())


@pytest.mark.parametrize(
    ("policy", "timeout_us", "queue_timeout_us"),
    [
        (QueuePolicy(), 5000, 5000),
        (QueuePolicy(timeout_us=3000), 5000, 3000),
        (QueuePolicy(timeout_us=3000, timeout_override=False), None, 3000),
    ],
)
def test_the_models_policy_decides_how_a_timeout_counts(
    policy: QueuePolicy, timeout_us: int | None, queue_timeout_us: int | None
) -> None:
    made = plan(ask(timeout_us=5000), version(queue=Queue(policy=policy)))
    assert (made.policy, made.timeout_us, made.queue_timeout_us) == (policy, timeout_us, queue_timeout_us)


def test_a_plan_gives_the_provenance_of_answers() -> None:
    model = version()
    made = plan(ask(device="cpu"), model)
    provenance = made.provenance(model.deployments["cpu:other"], "retried")
    assert provenance == ("m", "3", "cpu:other", "cpu", "retried", "fp16")
    assert made.provenance(model.deployments["cpu:other"], "retried") is provenance


def test_a_plan_does_not_keep_a_model_in_memory() -> None:
    model, planner = version(), Planner(DEVICES, "auto", "latency")
    request, unloaded = ask(), ref(model)
    made = planner.plan(request, model)
    del model
    assert unloaded() is None
    assert not made.fits(request, version())


def test_requests_of_one_layout_share_a_plan_until_another_version_answers() -> None:
    model, planner = version(), Planner(DEVICES, "auto", "latency")
    first = ask(device="cpu")
    same_layout = ask(device="cpu", layout=first.layout)
    made = planner.plan(first, model)
    assert planner.plan(same_layout, model) is made
    assert planner.plan(ask(device="cpu"), model) is not made
    assert planner.plan(same_layout, version()) is not made


def test_a_plan_is_forgotten_with_its_layout() -> None:
    model, planner = version(), Planner(DEVICES, "auto", "latency")
    request = ask()
    planner.plan(request, model)
    assert len(planner._plans) == 1
    del request
    assert len(planner._plans) == 0
