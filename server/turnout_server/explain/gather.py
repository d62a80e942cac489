"""Gathers what an explanation says of each device, from the objects that serve."""

import numpy as np

from turnout_server.core.errors import InvalidRequest, ServingError
from turnout_server.core.messages import InferRequest
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.devices.device import Device
from turnout_server.explain.answer import DeviceFacts, Question
from turnout_server.explain.load import Load, load
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import ModelVersion
from turnout_server.models.warmup import FREE_DIMENSION
from turnout_server.scheduling import batching, routing
from turnout_server.scheduling.routing import Candidate
from turnout_server.serving.executor import Executor


def request_for(question: Question, signature: Signature, now_s: float) -> InferRequest:
    """The request that is asked about, as if it had just come; its inputs take no memory, whatever their size.

    Raises:
        InvalidRequest: it asks for several rows of a model that has none.
    """
    if question.rows > 1 and not signature.max_batch_size:
        raise InvalidRequest(f"model '{question.model}' takes no batches, so rows must be 1, not {question.rows}")
    return InferRequest(
        question.model,
        question.version,
        "",
        {spec.name: _zeros(spec, question.rows) for spec in signature.inputs},
        device=question.device,
        objective=question.objective,
        precision=question.precision,
        priority=question.priority,
        deadline_s=None if question.deadline_us is None else now_s + question.deadline_us * 1e-6,
        arrived_s=now_s,
    )


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray:
    free = [rows if axis == 0 else FREE_DIMENSION for axis in range(len(spec.shape))]
    shape = [default if size == -1 else size for size, default in zip(spec.shape, free, strict=True)]
    return np.broadcast_to(np.zeros((), spec.datatype.dtype), shape)


def facts(
    question: Question,
    model: ModelVersion,
    device: Device,
    executor: Executor,
    candidate: Candidate,
    refusal: ServingError | None,
    *,
    asked: bool,
) -> DeviceFacts:
    """What there is to say of one device.

    Args:
        candidate: the device as the router saw it.
        refusal: why the router wouldn't have it.
    """
    deployment = model.deployments.get(device.name)
    if deployment is None:
        return DeviceFacts(device.name, asked, str(refusal or ""))
    added_us = candidate.added_us
    instances = min(device.instances, deployment.instances or device.instances)
    return DeviceFacts(
        device.name,
        asked,
        problem=str(refusal or ""),
        profile=deployment.profile.saved(),
        cap=deployment.cap,
        cap_reason=cap_reason(model, deployment),
        instances=instances,
        waiting=executor.waiting(),
        running=executor.running(),
        service_us=deployment.predict_us(question.rows),
        finish_us=candidate.finish_us,
        delay_us=routing.delay_us(candidate) or None,
        cost_per_million=None if added_us is None or device.price_per_hour is None else device.price_per_hour * added_us / 3600,
        energy_j=None if added_us is None or device.extra_w is None else device.extra_w * added_us * 1e-6,
        load=None if question.load_per_s is None else _load(question.load_per_s, question.rows, deployment, instances),
    )


def _load(rate_per_s: float, rows: int, deployment: Deployment, instances: int) -> Load | None:
    """What a load would mean; None where no run was ever measured."""
    if deployment.predict_us(rows) is None:
        return None

    def service_us(batch: int) -> float:
        return sum(deployment.predict_us(part) or 0.0 for part in deployment.parts(batch))

    return load(rate_per_s, rows, deployment.cap, instances, service_us)


def cap_reason(model: ModelVersion, deployment: Deployment) -> str:
    """Why no more rows than the cap are joined, in words."""
    if not model.joins:
        return _why_none(model)
    cap, best = deployment.cap, batching.best_rows(deployment.profile.settled_us, deployment.max_rows)
    if cap in deployment.preferred_rows:
        return "the model's preferred_batch_size"
    if cap >= deployment.max_rows:
        return "the model's max_batch_size"
    if cap < best and deployment.target_us is not None:
        return f"more would take longer than the model's latency target of {deployment.target_us / 1e3:g} ms"
    return "with more, a row would not be worth its wait: it would take as long, or hardly less"


def _why_none(model: ModelVersion) -> str:
    if not model.signature.max_batch_size:
        return "the model takes no batches (max_batch_size is 0)"
    if not model.configuration.batches:
        return "the model's turnout.batching is off"
    return "rows run together could not be shown to equal rows run alone"
