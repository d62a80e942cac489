"""Gathers an explanation from the objects that serve: what would happen to a request, without running or recording it."""

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from turnout_server.core.errors import InvalidRequest, ServingError
from turnout_server.core.messages import InferRequest
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.devices.engines import Engines
from turnout_server.devices.synthetic import USUAL
from turnout_server.explain.answer import DeviceFacts, Explanation, Question
from turnout_server.explain.load import Load, load
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.repository import Repository
from turnout_server.scheduling import batching, routing
from turnout_server.scheduling.routing import Forecast
from turnout_server.serving.executor import Executor
from turnout_server.serving.flight import Flight
from turnout_server.serving.plans import Planner
from turnout_server.serving.selection import Selector


class Explainer:
    """Explains routing decisions, by asking the objects that make them.

    Args:
        executors: by device name.
    """

    def __init__(
        self,
        repository: Repository,
        engines: Engines,
        executors: Mapping[str, Executor],
        planner: Planner,
        selector: Selector,
    ) -> None:
        self._repository = repository
        self._engines = engines
        self._executors = executors
        self._planner = planner
        self._selector = selector

    def explain(self, question: Question) -> Explanation:
        """Where such a request would run if it came now, and why.

        Raises:
            InvalidRequest, NotFound, Unavailable, FailedPrecondition: the model doesn't answer such requests at all.
        """
        model = self._repository.look_up(question.model, question.version).in_precision(question.precision)
        request = _request_for(question, model.signature, time.monotonic())
        plan = self._planner.plan(request, model)
        flight = Flight(request, lambda outcome: None, model)
        flight.apply(plan)
        preferences, asked = self._selector.preferences(flight, plan), self._selector.forecasts(flight, plan)
        try:
            route, problem = routing.choose(preferences, asked, self._engines.missing), ""
        except ServingError as error:
            route, problem = routing.Route("", ""), str(error)
        refused = {
            name: reason
            for _, names in plan.targets.entries
            for name, reason in routing.refusals([asked[name] for name in names], preferences.deadline_us).items()
        }
        others = [name for name in self._engines.by_name if name not in asked]
        forecasts = asked | {name: self._selector.forecast(name, flight, plan, choice=True) for name in others}
        return Explanation(
            model=model.name,
            version=str(model.version),
            rows=plan.rows,
            requested=plan.requested,
            objective=plan.effective_objective,
            deadline_us=question.deadline_us,
            target_us=preferences.target_us,
            devices=tuple(
                self._facts(question, model, forecasts[name], refused.get(name), asked=name in asked)
                for name in self._engines.by_name
            ),
            device=route.device,
            reason=route.reason,
            predicted_us=route.predicted_us,
            last=preferences.last,
            problem=problem,
        )

    def _facts(
        self, question: Question, model: ModelVersion, forecast: Forecast, refusal: ServingError | None, *, asked: bool
    ) -> DeviceFacts:
        """The facts about one device.

        Args:
            refusal: why the router wouldn't choose it.
        """
        device, executor = self._engines.by_name[forecast.device].device, self._executors[forecast.device]
        problem = str(refusal or forecast.unavailable or "")
        deployment = model.deployments.get(device.name)
        if deployment is None:
            return DeviceFacts(device.name, asked, problem)
        added_us = forecast.added_us if forecast.measured else None
        instances = min(device.instances, deployment.instances or device.instances)
        return DeviceFacts(
            device.name,
            asked,
            problem=problem,
            profile=deployment.profile.saved(),
            cap=deployment.effective_max_batch,
            cap_reason=effective_max_batch_reason(model, deployment),
            instances=instances,
            waiting=executor.waiting(device.name),
            running=executor.running(device.name),
            service_us=deployment.predict_us(question.rows),
            predicted_finish_us=forecast.predicted_finish_us,
            delay_us=routing.imposed_delay_us(forecast) or None,
            cost_per_million=None
            if added_us is None or device.price_per_hour is None
            else device.price_per_hour * added_us / 3600,
            energy_j=None if added_us is None or device.extra_w is None else device.extra_w * added_us * 1e-6,
            cores=deployment.cores,
            per_core=deployment.per_core is not None,
            together_per_s=deployment.rates and deployment.rates.together,
            per_core_per_s=deployment.rates and deployment.rates.per_core,
            load=None if question.load_per_s is None else _load(question.load_per_s, question.rows, deployment, instances),
        )


def _request_for(question: Question, signature: Signature, now_s: float) -> InferRequest:
    """The request in question, as if it had just arrived. Its inputs are broadcast zeros, which take no memory.

    Raises:
        InvalidRequest: it has several rows, and the model takes no batches.
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
    free = [rows if axis == 0 else USUAL.free for axis in range(len(spec.shape))]
    shape = [default if size == -1 else size for size, default in zip(spec.shape, free, strict=True)]
    return np.broadcast_to(np.zeros((), spec.datatype.dtype), shape)


def _load(rate_per_s: float, rows: int, deployment: Deployment, instances: int) -> Load | None:
    """What a load would mean, where requests wait least; None if no run was ever measured."""
    if deployment.predict_us(rows) is None:
        return None

    def service_us(batch: int) -> float:
        return sum(deployment.predict_us(chunk) or 0.0 for chunk in deployment.chunks(batch))

    loads = [load(rate_per_s, rows, deployment.effective_max_batch, instances, service_us)]
    if (way := deployment.per_core) is not None:
        loads.append(load(rate_per_s, rows, way.effective_max_batch, way.cores, lambda batch: way.predict_us(batch) or 0.0))
    loads.sort(key=lambda each: (each.wait_us is None, -each.most_per_s if each.wait_us is None else each.wait_us))
    return replace(loads[0], most_per_s=max(each.most_per_s for each in loads))


def effective_max_batch_reason(model: ModelVersion, deployment: Deployment) -> str:
    """Why batches on this device have no more rows, in words."""
    if not deployment.batchable:
        return _why_unbatched(model)
    most, best = deployment.effective_max_batch, batching.best_rows(deployment.profile.settled_us, deployment.max_rows)
    if most in deployment.preferred_rows:
        return "the model's preferred_batch_size"
    if most >= deployment.max_rows:
        return "the model's max_batch_size"
    if most < best and deployment.target_us is not None:
        return f"more would take longer than the model's latency target of {deployment.target_us / 1e3:g} ms"
    return "with more, a row would not be worth its wait: it would take as long, or hardly less"


def _why_unbatched(model: ModelVersion) -> str:
    if not model.signature.max_batch_size:
        return "the model takes no batches (max_batch_size is 0)"
    if not model.configuration.batches:
        return "the model's turnout.batching is off"
    return "rows run together could not be shown to equal rows run alone"
