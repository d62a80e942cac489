"""The protocol-free core: what an inference server does, in a straight line."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from turnout_server import routing
from turnout_server.config import Queue
from turnout_server.engines import Engines
from turnout_server.errors import DeviceLost, ServingError, internal_error, status_of
from turnout_server.loading import ModelVersion
from turnout_server.messages import Done, InferRequest, InferResponse
from turnout_server.metrics import NOBODY, Key, Metrics, Series
from turnout_server.readiness import Listeners
from turnout_server.repository import Repository
from turnout_server.routing import Candidate, Route
from turnout_server.scheduler import Execution, Executor, Work
from turnout_server.tracing import Tracer

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Flight:
    """One request from its arrival to its end.

    Attributes:
        route, work: where it runs now; another once its device was lost.
        lost: the device it was lost with, if it was.
    """

    request: InferRequest
    done: Done
    model: ModelVersion | None = None
    rows: int = 0
    route: Route | None = None
    work: Work | None = None
    lost: str = ""
    cancelled: bool = False

    @property
    def key(self) -> Key:
        if self.model is None:
            return NOBODY
        return self.model.name, str(self.model.version), self.route.device if self.route else ""

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
        self._ready_when = ready_when
        self._tracer = tracer

    def ready(self) -> bool:
        """Whether traffic may be sent here: every model has settled, devices work, and the server isn't stopping."""
        return not self.draining and self.repository.settled and self._enough_devices()

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether the model can answer: it is loaded on a device that works now."""
        if self.draining or not self.repository.is_ready(name, version):
            return False
        sessions = self.repository.find(name, version).sessions
        return any(self._engines.by_name[device].problem() is None for device in sessions)

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
        flight = _Flight(request, done)
        try:
            flight.model = self.repository.find(request.model, request.version)
            flight.rows = flight.model.signature.rows_of(request)
            self._send(flight, flight.model)
        except ServingError as error:
            self._failed(flight, error)
        return flight.cancel

    def _send(self, flight: _Flight, model: ModelVersion) -> None:
        """Chooses a device and enqueues there."""
        request = flight.request
        route = flight.route = self._route(request, model, flight)
        flight.work = Work(
            session=model.sessions[route.device],
            inputs=model.signature.to_graph(request.inputs),
            outputs=_in_model_order(request.outputs, model.signature.output_names),
            rows=flight.rows,
            max_rows=model.signature.max_batch_size if model.joins else flight.rows,
            deadline_s=_deadline_s(request, model.configuration.queue),
            done=lambda outcome: self._ended(flight, model, route, outcome),
            fastest_us=model.profiles[route.device].fastest_us(flight.rows),
            max_waiting=model.configuration.queue.max_size,
        )
        flight.work.cancelled = flight.cancelled
        self._executors[route.device].submit(flight.work)

    def _route(self, request: InferRequest, model: ModelVersion, flight: _Flight) -> Route:
        requested = request.device or model.configuration.default_device or self._default_device
        candidates = [
            Candidate(
                name, engine.device.kind, self._problem(name, model, flight.lost), self._predict_us(model, name, flight.rows)
            )
            for name, engine in self._engines.by_name.items()
        ]
        route = routing.choose(requested, candidates, self._engines.missing)
        return replace(route, reason="retried") if flight.lost else route

    def _problem(self, device: str, model: ModelVersion, lost: str) -> ServingError | None:
        """Why a model can't run on a device now; None if it can."""
        if device == lost:
            return DeviceLost(f"device '{device}' was lost with the request in it")
        return model.problems.get(device) or self._engines.by_name[device].problem()

    def _predict_us(self, model: ModelVersion, device: str, rows: int) -> float | None:
        profile = model.profiles.get(device)
        return profile.predict_us(rows) if profile else None

    def _ended(self, flight: _Flight, model: ModelVersion, route: Route, outcome: Execution | ServingError) -> None:
        if isinstance(outcome, DeviceLost) and not flight.lost and self._retried(flight, model, route):
            return
        if isinstance(outcome, ServingError):
            self._failed(flight, outcome)
            return
        if outcome.first:
            model.profiles[route.device].observe(outcome.batch_rows, outcome.compute_s * 1e6)
        try:
            response = _response(flight.request, model, route, outcome)
        except ValueError as error:  # a run gave an output that isn't what the graph declares
            hidden = internal_error()
            logger.error("an output of model %s cannot be reshaped: %s (%s)", model.name, error, hidden)
            self._failed(flight, hidden)
            return
        flight.done(response)
        self._answered(flight, outcome)
        if self._tracer.active:
            self._tracer.record(*flight.key, flight.request.id, _timestamps_ns(flight.request, outcome))

    def _retried(self, flight: _Flight, model: ModelVersion, route: Route) -> bool:
        """Sends a request whose device was lost to another one, once; False if it insisted on that device, or has no other."""
        flight.lost = route.device
        try:
            self._send(flight, model)
        except ServingError:
            flight.route = route
            return False
        return True

    def _enough_devices(self) -> bool:
        working = [name for name, engine in self._engines.by_name.items() if engine.problem() is None]
        if self._ready_when == "all":
            return len(working) == len(self._engines.by_name)
        return bool(working) if self._ready_when == "any" else self._ready_when in working

    def _answered(self, flight: _Flight, execution: Execution) -> None:
        series = self._metrics.series(flight.key)
        series.request_s.observe(time.monotonic() - flight.request.arrived_s)
        series.queue_s.observe(execution.queue_s)
        series.compute_s.observe(execution.compute_s)
        series.rows += flight.rows
        series.input_s += execution.input_s
        series.output_s += execution.output_s
        series.last_s = time.time()
        if execution.first:
            series.batch_rows.observe(execution.batch_rows)
            series.batches[execution.batch_rows].observe(execution.input_s, execution.compute_s, execution.output_s)

    def _failed(self, flight: _Flight, error: ServingError) -> None:
        series = self._metrics.series(flight.key)
        series.failures[status_of(error)] += 1
        series.failed_s += time.monotonic() - flight.request.arrived_s
        flight.done(error)


def _deadline_s(request: InferRequest, queue: Queue) -> float | None:
    """When nobody wants the answer any more: the earlier of the caller's own deadline and of what its timeout allows."""
    timeout_us = queue.effective_timeout_us(request.timeout_us)
    if timeout_us is None:
        return request.deadline_s
    expires_s = request.arrived_s + timeout_us * 1e-6
    return expires_s if request.deadline_s is None else min(request.deadline_s, expires_s)


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


def _in_model_order(wanted: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in wanted) if wanted else names


def _response(request: InferRequest, model: ModelVersion, route: Route, execution: Execution) -> InferResponse:
    parameters: dict[str, str | int] = {
        "device": route.device,
        "device_requested": request.device,
        "route_reason": route.reason,
        "decode_us": request.decode_us,
        "queue_us": int(execution.queue_s * 1e6),
        "compute_us": int(execution.compute_s * 1e6),
        "batch_size": execution.batch_rows,
    }
    if route.predicted_us is not None:
        parameters["predicted_us"] = int(route.predicted_us)
    signature = model.signature
    names = _in_model_order(request.outputs, signature.output_names)
    arrays = {name: signature.to_client(name, a) for name, a in zip(names, execution.outputs, strict=True)}
    return InferResponse(model.name, str(model.version), request.id, signature, arrays, parameters)
