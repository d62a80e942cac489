"""The protocol-free core: what an inference server does, in a straight line."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from turnout_server.core.errors import DeviceLost, FailedPrecondition, ServingError, internal_error, status_of
from turnout_server.core.listeners import Listeners
from turnout_server.core.messages import Done, InferRequest, InferResponse, nothing_to_cancel
from turnout_server.core.metrics import NOBODY, Key, Metrics, Series
from turnout_server.devices.device import Device
from turnout_server.devices.engines import Engines
from turnout_server.explain import gather as explaining
from turnout_server.explain.answer import DeviceFacts, Explanation, Question
from turnout_server.models.loading import ModelVersion
from turnout_server.models.repository import Repository
from turnout_server.scheduling import routing
from turnout_server.scheduling.routing import Candidate, Route, Wish
from turnout_server.serving.executor import Executor
from turnout_server.serving.job import Execution, Work
from turnout_server.serving.plans import Plan, plan_for
from turnout_server.serving.tracing import Tracer

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Flight:
    """One request from its arrival to its end.

    Attributes:
        model: the version that answers.
        route, work: where it runs now; another once its device was lost.
        routed_s: when that was decided, on the monotonic clock.
        lost: the device it was lost with, if it was.
        finish_s: by when its caller wants the answer, on the monotonic clock; None if that doesn't matter.
        begin_s: by when its run must begin; None if that doesn't matter.
    """

    request: InferRequest
    done: Done
    model: ModelVersion
    route: Route | None = None
    routed_s: float = 0.0
    finish_s: float | None = None
    begin_s: float | None = None
    work: Work | None = None
    lost: str = ""
    cancelled: bool = False

    @property
    def key(self) -> Key:
        return self.model.name, str(self.model.version), self.route.device if self.route else ""

    def due(self, plan: Plan) -> None:
        """Settles by when it must have begun and ended."""
        self.finish_s = _sooner_s(self.request, plan.finish_us)
        self.begin_s = _sooner_s(self.request, plan.begin_us)

    def cancel(self) -> None:
        """The caller is gone."""
        self.cancelled = True
        if self.work is not None:
            self.work.cancel()


class DataPlane:
    """Answers requests from the models of a repository, on the executors of this server's devices.

    Args:
        executors: by the names of the engines' devices.
        default_device: where a request runs that says nothing, of a model that says nothing.
        default_objective: what decides between devices for such a request.
        ready_when: which devices must work for `ready`: `any`, `all`, or the name of one.
        tracer: told of every request that was answered.
        changes: told whenever `ready`, or the readiness of a model, may have changed.
    """

    def __init__(
        self,
        repository: Repository,
        engines: Engines,
        executors: Mapping[str, Executor],
        metrics: Metrics,
        default_device: str,
        default_objective: str,
        ready_when: str,
        changes: Listeners,
        tracer: Tracer,
    ) -> None:
        self.repository = repository
        self.changes = changes
        self.draining = False
        self._engines = engines
        self._executors = executors
        self._metrics = metrics
        self._default_device = default_device
        self._default_objective = default_objective
        self._device_names = tuple(engines.by_name)
        self._ready_when = ready_when
        self._tracer = tracer

    def ready(self) -> bool:
        """Whether traffic may be sent here: every model has settled, devices work, and the server isn't stopping."""
        return not self.draining and self.repository.settled and self._enough_devices()

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether the model can answer: it is loaded on a device that works now."""
        if self.draining or not self.repository.is_ready(name, version):
            return False
        deployments = self.repository.find(name, version).deployments
        return any(self._engines.by_name[device].problem() is None for device in deployments)

    def drain(self) -> None:
        """Not ready from now on; requests are still answered."""
        self.draining = True
        self.changes.notify()

    def statistics(self, model: ModelVersion) -> dict[str, Series]:
        """What has been counted of a model version, by device; under the empty name what failed before it had one."""
        return self._metrics.by_device(model.name, str(model.version))

    def infer(self, request: InferRequest, done: Done) -> Callable[[], None]:
        """Runs a request on the device that is chosen for it.

        Args:
            done: told the answer or the error, from the thread that reached it; may happen before this returns.

        Returns:
            What to call when the caller has gone away.
        """
        try:
            model = self.repository.find(request.model, request.version)
        except ServingError as error:
            self._count_failure(NOBODY, request, error)
            done(error)
            return nothing_to_cancel
        flight = _Flight(request, done, model)
        try:
            self._send(flight, self._plan(request, model))
        except ServingError as error:
            self._failed(flight, error)
        return flight.cancel

    def explain(self, question: Question) -> Explanation:
        """Where such a request would run if it came now, and why; decided as for a request, of which nothing is run or kept.

        Raises:
            InvalidRequest, NotFound, Unavailable, FailedPrecondition: the model doesn't answer such requests at all.
        """
        model = self.repository.look_up(question.model, question.version)
        request = explaining.request_for(question, model.signature, time.monotonic())
        plan = self._plan(request, model)
        flight = _Flight(request, lambda outcome: None, model)
        flight.due(plan)
        wish, asked = self._choices(flight, plan)
        try:
            route, problem = routing.choose(wish, asked, self._engines.missing), ""
        except ServingError as error:
            route, problem = Route("", ""), str(error)
        others = [name for name in self._device_names if name not in asked]
        refused = {
            name: problem
            for _, names in wish.entries
            for name, problem in routing.refusals([asked[name] for name in names], wish.deadline_us).items()
        }
        candidates = asked | {name: self._candidate(name, flight, plan, choice=True) for name in others}
        return Explanation(
            model.name,
            str(model.version),
            plan.rows,
            plan.requested,
            plan.goal,
            question.deadline_us,
            wish.target_us,
            tuple(
                self._facts(question, model, candidates[name], refused.get(name), asked=name in asked)
                for name in self._device_names
            ),
            *route,
            last=wish.last,
            problem=problem,
        )

    def _facts(
        self, question: Question, model: ModelVersion, candidate: Candidate, refusal: ServingError | None, *, asked: bool
    ) -> DeviceFacts:
        device, executor = self._engines.by_name[candidate.name].device, self._executors[candidate.name]
        return explaining.facts(question, model, device, executor, candidate, refusal or candidate.problem, asked=asked)

    def _plan(self, request: InferRequest, model: ModelVersion) -> Plan:
        """How such a request is served: as those before it that are laid out alike, or worked out for the first of them."""
        plan = request.layout.plan
        if not (isinstance(plan, Plan) and plan.fits(request, model)):
            plan = plan_for(request, model, self._device_names, self._default_device, self._default_objective)
            request.layout.plan = plan
        return plan

    def _send(self, flight: _Flight, plan: Plan) -> None:
        """Chooses a device and enqueues there."""
        flight.due(plan)
        route = flight.route = self._straight(flight, plan) or self._route(flight, plan)
        flight.routed_s = time.monotonic()
        request, model, deployment = flight.request, flight.model, flight.model.deployments[route.device]
        flight.work = Work(
            deployment,
            model.signature.to_graph(request.inputs),
            plan.outputs,
            plan.rows,
            request.layout.kind,
            lambda outcome: self._ended(flight, plan, route, outcome),
            deployment.begin_by_s(plan.rows, flight.finish_s, flight.begin_s),
            plan.priority,
            plan.policy.max_size,
            flight.finish_s,
        )
        flight.work.cancelled = flight.cancelled
        self._executors[route.device].submit(flight.work)

    def _straight(self, flight: _Flight, plan: Plan) -> Route | None:
        """The route of a request that leaves no choice, is in no hurry and needn't wait; None if it isn't as plain as that."""
        device = plan.only
        if not device or flight.finish_s is not None or self._problem(device, flight) is not None:
            return None
        predicted_us = self._executors[device].unhindered_us(flight.model.deployments[device], plan.rows)
        return None if predicted_us is None else Route(device, plan.only_reason, predicted_us)

    def _route(self, flight: _Flight, plan: Plan) -> Route:
        wish, candidates = self._choices(flight, plan)
        route = routing.choose(wish, candidates, self._engines.missing)
        if route.device != wish.last and len(candidates) > 1:
            flight.model.remember(plan.requested, route.device)
        return route._replace(reason="retried") if flight.lost else route

    def _choices(self, flight: _Flight, plan: Plan) -> tuple[Wish, dict[str, Candidate]]:
        """What a request wants of its device, and every device that it may mean, as it is now."""
        choice = not plan.only
        candidates = {name: self._candidate(name, flight, plan, choice=choice) for _, names in plan.entries for name in names}
        deadline_us = None if flight.finish_s is None else (flight.finish_s - time.monotonic()) * 1e6
        last = flight.model.last_routes.get(plan.requested, "")
        return Wish(plan.entries, plan.goal, deadline_us, flight.model.configuration.latency_target_us, last), candidates

    def _candidate(self, device: str, flight: _Flight, plan: Plan, *, choice: bool) -> Candidate:
        """A device as the request meets it; with whom it would make wait there, if it has a choice."""
        problem = self._problem(device, flight)
        if problem is not None:
            return Candidate(device, problem)
        deployment, executor = flight.model.deployments[device], self._executors[device]
        full = executor.full(deployment, plan.priority, plan.policy.max_size)
        begin_s = deployment.begin_by_s(plan.rows, flight.finish_s, flight.begin_s)
        forecast = executor.forecast(deployment, flight.request.layout.kind, plan.rows, plan.priority, begin_s)
        if forecast is None:
            return Candidate(device, full)
        return Candidate(
            device,
            full,
            forecast.finish_us,
            forecast.soonest_us,
            forecast.alone_us,
            forecast.added_us,
            None if plan.goal == routing.LATENCY else _rate(self._engines.by_name[device].device, plan.goal),
            min(forecast.added_us, deployment.longest_us(plan.rows)) if choice else None,
            executor.comers(plan.priority) if choice else (),
        )

    def _problem(self, device: str, flight: _Flight) -> ServingError | None:
        """Why a request can't run on a device now, however busy that is; None if it can."""
        model = flight.model
        if device == flight.lost:
            return DeviceLost(f"device '{device}' was lost with the request in it")
        problem = model.problems.get(device) or self._engines.by_name[device].problem()
        if problem is None and (wanted := flight.request.precision) and wanted != model.deployments[device].precision:
            return FailedPrecondition(
                f"model '{model.name}' has no {wanted} file for device '{device}', where it runs in "
                f"{model.deployments[device].precision}; set turnout.file.{device} to one that is"
            )
        return problem

    def _ended(self, flight: _Flight, plan: Plan, route: Route, outcome: Execution | ServingError) -> None:
        if isinstance(outcome, DeviceLost) and not flight.lost and self._retried(flight, plan, route):
            return
        if isinstance(outcome, ServingError):
            self._failed(flight, outcome)
            return
        try:
            response = _response(flight, plan, route, outcome)
        except ValueError as error:  # a run gave an output that isn't what the graph declares
            hidden = internal_error()
            logger.error("an output of model %s cannot be reshaped: %s (%s)", flight.model.name, error, hidden)
            self._failed(flight, hidden)
            return
        flight.done(response)
        self._answered(flight, plan, route, outcome)
        if self._tracer.active:
            self._tracer.record(*flight.key, flight.request.id, _timestamps_ns(flight.request, outcome))

    def _retried(self, flight: _Flight, plan: Plan, route: Route) -> bool:
        """Sends a request whose device was lost to another one, once; False if it insisted on that device, or has no other."""
        flight.lost = route.device
        try:
            self._send(flight, plan)
        except ServingError:
            flight.route = route
            return False
        return True

    def _enough_devices(self) -> bool:
        working = [name for name, engine in self._engines.by_name.items() if engine.problem() is None]
        if self._ready_when == "all":
            return len(working) == len(self._engines.by_name)
        return bool(working) if self._ready_when == "any" else self._ready_when in working

    def _answered(self, flight: _Flight, plan: Plan, route: Route, execution: Execution) -> None:
        now_s = time.monotonic()
        series = self._metrics.series(flight.model.deployments[route.device].key)
        series.request_s.observe(now_s - flight.request.arrived_s)
        series.queue_s.observe(execution.queue_s)
        series.compute_s.observe(execution.compute_s)
        series.rows += plan.rows
        series.input_s += execution.input_s
        series.output_s += execution.output_s
        series.last_s = time.time()
        series.reasons[route.reason] += 1
        if route.predicted_us:
            series.prediction.observe((now_s - flight.routed_s) * 1e6 / route.predicted_us)

    def _failed(self, flight: _Flight, error: ServingError) -> None:
        self._count_failure(flight.key, flight.request, error)
        flight.done(error)

    def _count_failure(self, key: Key, request: InferRequest, error: ServingError) -> None:
        series = self._metrics.series(key)
        series.failures[status_of(error)] += 1
        series.failed_s += time.monotonic() - request.arrived_s


def _sooner_s(request: InferRequest, timeout_us: int | None) -> float | None:
    """The earlier of the caller's deadline and so long after the request's arrival."""
    if timeout_us is None:
        return request.deadline_s
    expires_s = request.arrived_s + timeout_us * 1e-6
    return expires_s if request.deadline_s is None else min(request.deadline_s, expires_s)


def _rate(device: Device, objective: str) -> float | None:
    """What an hour of a device's time costs, by an objective; None if nobody said."""
    return device.price_per_hour if objective == routing.COST else device.extra_w


def _timestamps_ns(request: InferRequest, execution: Execution) -> dict[str, int]:
    """When each step of a request that has just ended began, on the monotonic clock."""
    end_s = time.monotonic()
    computed_s = end_s - execution.output_s
    started_s = computed_s - execution.compute_s
    steps_s = {
        "REQUEST_START": request.arrived_s,
        "QUEUE_START": started_s - execution.input_s - execution.queue_s,
        "COMPUTE_START": started_s - execution.input_s,
        "COMPUTE_INPUT_END": started_s,
        "COMPUTE_OUTPUT_START": computed_s,
        "COMPUTE_END": end_s,
        "REQUEST_END": end_s,
    }
    return {name: int(at_s * 1e9) for name, at_s in steps_s.items()}


def _response(flight: _Flight, plan: Plan, route: Route, execution: Execution) -> InferResponse:
    request, model = flight.request, flight.model
    figures = {
        "decode_us": request.decode_us,
        "queue_us": int(execution.queue_s * 1e6),
        "compute_us": int(execution.compute_s * 1e6),
        "batch_size": execution.batch_rows,
    }
    if route.predicted_us is not None:
        figures["predicted_us"] = int(route.predicted_us)
    outputs = model.signature.to_client(dict(zip(plan.outputs, execution.outputs, strict=True)))
    return InferResponse(
        plan.origin(model.deployments[route.device], route.reason), request.id, model.signature, outputs, figures
    )
