"""The protocol-free core: what happens to an inference request, in a straight line."""

import logging
import time
from collections.abc import Callable, Mapping

from turnout_server.core.errors import Cancelled, DeadlineExceeded, DeviceLost, ServingError, internal_error, status_of
from turnout_server.core.listeners import Listeners
from turnout_server.core.messages import Done, InferRequest, InferResponse, nothing_to_cancel
from turnout_server.core.metrics import NOBODY, Key, Metrics, Series
from turnout_server.devices.engines import Engines
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.repository import Repository
from turnout_server.scheduling.routing import Route
from turnout_server.serving.executor import Executor
from turnout_server.serving.flight import Flight
from turnout_server.serving.inline import InlineRunner
from turnout_server.serving.job import Execution, Job, Outcome
from turnout_server.serving.plans import Plan, Planner
from turnout_server.serving.selection import Selector
from turnout_server.serving.tracing import Tracer

logger = logging.getLogger(__name__)

#: A client that goes away this short before its deadline does so because of it: its clock isn't ours.
GONE_S = 0.01


class DataPlane:
    """Answers requests from the models of a repository, on the devices of this server.

    Args:
        executors: by device name.
        planner, selector: decide how a request is served, and where.
        ready_when: the devices that must work for the server to be ready: `any`, `all`, or the name of one.
        changes: notified whenever `ready`, or the readiness of a model, may have changed.
        tracer: receives every request that was answered.
    """

    def __init__(
        self,
        *,
        repository: Repository,
        engines: Engines,
        executors: Mapping[str, Executor],
        planner: Planner,
        selector: Selector,
        metrics: Metrics,
        ready_when: str,
        changes: Listeners,
        tracer: Tracer,
    ) -> None:
        self.repository = repository
        self.changes = changes
        self.draining = False
        self._engines = engines
        self._executors = executors
        self._planner = planner
        self._selector = selector
        self._metrics = metrics
        self._ready_when = ready_when
        self._tracer = tracer

    def ready(self) -> bool:
        """Whether traffic may be sent here: every model has settled, enough devices work, and the server isn't stopping."""
        return not self.draining and self.repository.settled and self._enough_devices()

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model can answer: it is loaded on a device that works now."""
        if self.draining or not self.repository.is_ready(name, version):
            return False
        deployments = self.repository.find(name, version).deployments
        return any(self._engines.by_name[device].unavailable_reason() is None for device in deployments)

    def drain(self) -> None:
        """Reports 'not ready' from now on; requests are still answered."""
        self.draining = True
        self.changes.notify()

    def statistics(self, model: ModelVersion) -> dict[str, Series]:
        """The counters of a model version, by device; the empty name has the requests that failed before they had one."""
        return self._metrics.by_device(model.name, str(model.version))

    def infer(self, request: InferRequest, done: Done, inline: InlineRunner | None = None) -> Callable[[], None]:
        """Runs a request on the device that is chosen for it.

        Args:
            done: receives the answer or the error, from the thread that has it, possibly before this returns.
            inline: runs very short jobs in the calling thread.

        Returns:
            Call this when the client has gone away.
        """
        key = NOBODY
        try:
            found = self.repository.find(request.model, request.version)
            key = (found.name, str(found.version), "")
            model = found.in_precision(request.precision)
        except ServingError as error:
            self._count_failure(key, error, request.arrived_s)
            done(error)
            return nothing_to_cancel
        flight = Flight(request, done, model, inline)
        try:
            self._send(flight, self._planner.plan(request, model))
        except ServingError as error:
            self._fail(flight, error)
        return flight.cancel

    def rejected(self, model: str, version: str, error: ServingError, arrived_s: float) -> None:
        """Counts a request that failed before it could be passed to `infer`.

        Args:
            model, version: as far as they could be read.
        """
        try:
            found = self.repository.look_up(model, version)
        except ServingError:
            self._count_failure(NOBODY, error, arrived_s)
        else:
            self._count_failure((found.name, str(found.version), ""), error, arrived_s)

    def _send(self, flight: Flight, plan: Plan) -> None:
        """Chooses a device and submits the request there."""
        flight.apply(plan)
        route, inline = self._selector.select(flight, plan)
        flight.route = route
        flight.routed_s = time.monotonic()
        request, model, deployment = flight.request, flight.model, flight.model.deployments[route.device]
        job = flight.job = Job(
            deployment,
            model.signature.to_graph(request.inputs),
            plan.outputs,
            plan.rows,
            request.layout.batch_key,
            lambda outcome: self._complete(flight, plan, route, outcome),
            deployment.start_by_s(plan.rows, flight.deadline_s, flight.start_by_s),
            flight.deadline_s,
            plan.priority,
            plan.policy.max_size,
        )
        job.cancelled = flight.cancelled
        if inline and flight.inline is not None:
            flight.inline.submit(job)
        else:
            self._executors[route.device].submit(job)

    def _complete(self, flight: Flight, plan: Plan, route: Route, outcome: Outcome) -> None:
        if (
            isinstance(outcome, DeviceLost)
            and not outcome.suspect
            and not flight.lost
            and self._retried(flight, plan, route, outcome)
        ):
            return
        if isinstance(outcome, ServingError):
            self._fail(flight, outcome)
            return
        try:
            response = _response(flight, plan, route, outcome)
        except ValueError as error:  # a run gave an output that isn't what the graph declares
            hidden = internal_error()
            about = {"request_id": flight.request.id, "model": flight.model.name}
            logger.error("an output of model %s cannot be reshaped: %s (%s)", flight.model.name, error, hidden, extra=about)
            self._fail(flight, hidden)
            return
        undelivered = flight.done(response)
        if undelivered is not None:
            self._count_failure(flight.key, undelivered, flight.request.arrived_s)
            return
        self._count_answer(flight, plan, route, outcome)
        if self._tracer.active:
            self._tracer.record(*flight.key, flight.request.id, _timestamps_ns(flight.request, outcome))

    def _retried(self, flight: Flight, plan: Plan, route: Route, loss: DeviceLost) -> bool:
        """Sends a request whose device was lost to another one, once; False if it has no other."""
        flight.lost, flight.ran = route.device, loss.ran
        flight.inline = None  # the calling thread isn't the one that brought it
        try:
            self._send(flight, plan)
        except ServingError:
            flight.route = route
            return False
        return True

    def _enough_devices(self) -> bool:
        working = [name for name, engine in self._engines.by_name.items() if engine.unavailable_reason() is None]
        if self._ready_when == "all":
            return len(working) == len(self._engines.by_name)
        return bool(working) if self._ready_when == "any" else self._ready_when in working

    def _count_answer(self, flight: Flight, plan: Plan, route: Route, execution: Execution) -> None:
        now_s = time.monotonic()
        series = self._metrics.series(flight.model.deployments[route.device].key)
        request_s = now_s - flight.request.arrived_s
        series.request_s.observe(request_s)
        series.load_ratio.observe(request_s / execution.compute_s if execution.compute_s else 1.0)
        series.queue_s.observe(execution.queue_s)
        series.compute_s.observe(execution.compute_s)
        series.rows += plan.rows
        series.input_s += execution.input_s
        series.output_s += execution.output_s
        series.last_s = time.time()
        series.reasons[route.reason] += 1
        if route.predicted_us:
            series.prediction.observe((now_s - flight.routed_s) * 1e6 / route.predicted_us)
            if flight.deadline_s is not None:
                flight.model.deployments[route.device].confidence.observe(missed=now_s > flight.deadline_s)

    def _fail(self, flight: Flight, error: ServingError) -> None:
        if flight.route is not None and flight.route.predicted_us and _missed_its_deadline(flight, error):
            flight.model.deployments[flight.route.device].confidence.observe(missed=True)
        self._count_failure(flight.key, error, flight.request.arrived_s)
        flight.done(error)

    def _count_failure(self, key: Key, error: ServingError, arrived_s: float) -> None:
        series = self._metrics.series(key)
        series.failures[status_of(error)] += 1
        series.failed_s += time.monotonic() - arrived_s


def _timestamps_ns(request: InferRequest, execution: Execution) -> dict[str, int]:
    """The start of each step of a request that has just ended, in ns on the monotonic clock."""
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


def _missed_its_deadline(flight: Flight, error: ServingError) -> bool:
    """Whether a request failed because its time was up; its client may say so first, by going away."""
    gone = isinstance(error, Cancelled) and flight.deadline_s is not None and time.monotonic() >= flight.deadline_s - GONE_S
    return isinstance(error, DeadlineExceeded) or gone


def _response(flight: Flight, plan: Plan, route: Route, execution: Execution) -> InferResponse:
    request, model = flight.request, flight.model
    timings = {
        "decode_us": request.decode_us,
        "queue_us": int(execution.queue_s * 1e6),
        "compute_us": int(execution.compute_s * 1e6),
        "batch_size": execution.batch_rows,
    }
    if route.predicted_us is not None:
        timings["predicted_us"] = int(route.predicted_us)
    outputs = model.signature.to_client(dict(zip(plan.outputs, execution.outputs, strict=True)), request.inputs)
    provenance = plan.provenance(model.deployments[route.device], route.reason)
    return InferResponse(provenance, request.id, model.signature, outputs, timings)
