"""The protocol-free core: what an inference server does, in a straight line."""

import logging
import time
from collections.abc import Callable, Mapping

from turnout_server import routing
from turnout_server.config import Queue
from turnout_server.devicenames import kind_of
from turnout_server.errors import ServingError, internal_error, status_of
from turnout_server.loading import ModelVersion
from turnout_server.messages import Done, InferRequest, InferResponse
from turnout_server.metrics import NOBODY, Key, Metrics, Series
from turnout_server.readiness import Listeners
from turnout_server.repository import Repository
from turnout_server.routing import Candidate, Route
from turnout_server.scheduler import Execution, Executor, Work
from turnout_server.tracing import Tracer

logger = logging.getLogger(__name__)


class DataPlane:
    """Answers requests from the models of a repository, on the executors of this server's devices.

    Args:
        executors: by device name.
        missing: why kinds of device that this host could have are absent.
        default_device: where a request runs that says nothing, of a model that says nothing.
        tracer: told of every request that was answered.
        changes: told whenever `ready`, or the readiness of a model, may have changed.
    """

    def __init__(
        self,
        repository: Repository,
        executors: Mapping[str, Executor],
        missing: dict[str, str],
        metrics: Metrics,
        default_device: str,
        changes: Listeners,
        tracer: Tracer,
    ) -> None:
        self.repository = repository
        self.changes = changes
        self.draining = False
        self._executors = executors
        self._missing = missing
        self._metrics = metrics
        self._tracer = tracer
        self._default_device = default_device

    def ready(self) -> bool:
        """Whether traffic may be sent here: every model has settled, and the server isn't stopping."""
        return not self.draining and self.repository.settled

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
        key: Key = NOBODY
        try:
            model = self.repository.find(request.model, request.version)
            key = (model.name, str(model.version), "")
            rows = model.signature.rows_of(request)
            route = self._route(request, model, rows)
            key = (model.name, str(model.version), route.device)
            work = self._work(request, model, rows, route, key, done)
            self._executors[route.device].submit(work)
        except ServingError as error:
            self._failed(key, request, error, done)
            return _nothing_to_cancel
        return work.cancel

    def _route(self, request: InferRequest, model: ModelVersion, rows: int) -> Route:
        requested = request.device or model.configuration.default_device or self._default_device
        candidates = [
            Candidate(name, kind_of(name), model.problems.get(name), self._predict_us(model, name, rows))
            for name in self._executors
        ]
        return routing.choose(requested, candidates, self._missing)

    def _predict_us(self, model: ModelVersion, device: str, rows: int) -> float | None:
        profile = model.profiles.get(device)
        return profile.predict_us(rows) if profile else None

    def _work(self, request: InferRequest, model: ModelVersion, rows: int, route: Route, key: Key, done: Done) -> Work:
        outputs = _in_model_order(request.outputs, model.signature.output_names)

        def finished(outcome: Execution | ServingError) -> None:
            if isinstance(outcome, ServingError):
                self._failed(key, request, outcome, done)
                return
            if outcome.first:
                model.profiles[route.device].observe(outcome.batch_rows, outcome.compute_s * 1e6)
            try:
                response = _response(request, model, route, outputs, outcome)
            except ValueError as error:  # a run gave an output that isn't what the graph declares
                hidden = internal_error()
                logger.error("an output of model %s cannot be reshaped: %s (%s)", model.name, error, hidden)
                self._failed(key, request, hidden, done)
                return
            done(response)
            self._answered(key, request, rows, outcome)
            if self._tracer.active:
                self._tracer.record(*key, request.id, _timestamps_ns(request, outcome))

        return Work(
            session=model.sessions[route.device],
            inputs=model.signature.to_graph(request.inputs),
            outputs=outputs,
            rows=rows,
            max_rows=model.signature.max_batch_size or 1,
            deadline_s=_deadline_s(request, model.configuration.queue),
            done=finished,
            fastest_us=model.profiles[route.device].fastest_us(rows),
        )

    def _answered(self, key: Key, request: InferRequest, rows: int, execution: Execution) -> None:
        series = self._metrics.series(key)
        series.request_s.observe(time.monotonic() - request.arrived_s)
        series.queue_s.observe(execution.queue_s)
        series.compute_s.observe(execution.compute_s)
        series.rows += rows
        series.input_s += execution.input_s
        series.output_s += execution.output_s
        series.last_s = time.time()
        if execution.first:
            series.batch_rows.observe(execution.batch_rows)
            series.batches[execution.batch_rows].observe(execution.input_s, execution.compute_s, execution.output_s)

    def _failed(self, key: Key, request: InferRequest, error: ServingError, done: Done) -> None:
        series = self._metrics.series(key)
        series.failures[status_of(error)] += 1
        series.failed_s += time.monotonic() - request.arrived_s
        done(error)


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


def _nothing_to_cancel() -> None:
    """The request has ended already."""


def _in_model_order(wanted: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in wanted) if wanted else names


def _response(
    request: InferRequest, model: ModelVersion, route: Route, outputs: tuple[str, ...], execution: Execution
) -> InferResponse:
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
    arrays = {name: signature.to_client(name, a) for name, a in zip(outputs, execution.outputs, strict=True)}
    return InferResponse(model.name, str(model.version), request.id, signature, arrays, parameters)
