"""The health service grpc.health.v1.

The empty service name and the inference service mean the whole server; a model's name means that model.
Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import threading

from grpc_health.v1 import health_pb2
from turnout_proto.methods import SERVICE

from turnout_server.core.errors import InvalidRequest, NotFound, Unavailable
from turnout_server.core.suggestions import did_you_mean
from turnout_server.rpc.handlers import answering, parsed, status
from turnout_server.serving.dataplane import DataPlane
from turnout_server.transport.base import Call, Receiver, StreamHandler, UnaryHandler

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService:
    """Answers Check and Watch."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    def unary(self) -> dict[str, UnaryHandler]:
        return {CHECK: answering(health_pb2.HealthCheckRequest, self.check)}

    def stream(self) -> dict[str, StreamHandler]:
        return {WATCH: self.watch}

    def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        state = self.state_of(request.service)
        if state == _SERVICE_UNKNOWN:
            meant = did_you_mean(request.service, (SERVICE, *self._dataplane.repository.names()))
            raise NotFound(f"unknown service '{request.service}': it is neither '{SERVICE}' nor a model of this server{meant}")
        return health_pb2.HealthCheckResponse(status=state)

    def watch(self, call: Call) -> Receiver:
        return _Watch(self, call)

    def subscribe(self, watch: "_Watch") -> None:
        """Updates `watch` at every change until its client cancels."""
        watch.call.on_cancel(self._dataplane.changes.add(watch.update))

    @property
    def ended(self) -> bool:
        """Whether no state will change any more."""
        return self._dataplane.changes.ended

    def state_of(self, service: str) -> int:
        """The ServingStatus of a service."""
        if service in ("", SERVICE):
            return _SERVING if self._dataplane.ready() else _NOT_SERVING
        if not self._dataplane.repository.knows(service):
            return _SERVICE_UNKNOWN
        return _SERVING if self._dataplane.model_ready(service) else _NOT_SERVING


class _Watch:
    """One Watch call: sends the current state, then every change."""

    def __init__(self, health: HealthService, call: Call) -> None:
        self.call = call
        self._health = health
        self._service = ""
        self._sent: int | None = None
        self._sending = threading.Lock()

    def message(self, data: bytes) -> None:
        try:
            self._service = parsed(health_pb2.HealthCheckRequest, data).service
        except InvalidRequest as error:
            self.call.finish(status(error))
            return
        self._health.subscribe(self)
        self.update()

    def half_closed(self) -> None:
        """Ignored: the call continues until the client cancels it."""

    def update(self) -> None:
        with self._sending:  # the control thread and the transport's threads call this
            state = self._health.state_of(self._service)
            if state != self._sent:
                self._sent = state
                self.call.send(health_pb2.HealthCheckResponse(status=state).SerializeToString())
        if self._health.ended:  # otherwise each watcher would delay the shutdown
            self.call.finish(status(Unavailable("the server is shutting down")))
