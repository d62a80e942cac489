"""The server: the network side over the core, made from the settings."""

import importlib.metadata
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector

from turnout_server.assembly import Core, build
from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.watched_files import Followed, Watcher
from turnout_server.devices.host import usable_memory_bytes
from turnout_server.explain import http as explain_http
from turnout_server.observability import gpu_metrics, page
from turnout_server.observability import status as status_json
from turnout_server.observability.host_metrics import BuildInfo, HostMetrics
from turnout_server.observability.http import Answer, MonitoringServer, Route, probe
from turnout_server.observability.log_settings import LogSettings
from turnout_server.observability.model_metrics import ModelMetrics
from turnout_server.observability.status import Status
from turnout_server.observability.triton_metrics import TritonMetrics
from turnout_server.rpc import reflection, tokens
from turnout_server.rpc.access import Access
from turnout_server.rpc.extensions import ExtensionService
from turnout_server.rpc.health import HealthService
from turnout_server.rpc.inference import InferenceService
from turnout_server.rpc.models import ModelService
from turnout_server.settings import Settings
from turnout_server.transport import addresses, exposure, selection
from turnout_server.transport.base import Handlers, Transport
from turnout_server.transport.credentials import TlsCredentials, TlsFiles
from turnout_server.transport.limits import Limits, channel_arguments
from turnout_server.wire.codec import Codec
from turnout_server.wire.shared_memory import SharedMemory

if TYPE_CHECKING:  # needs the extra `otel`
    from turnout_server.observability.spans import Spans

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The extensions that ServerMetadata lists; each of them works.
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


class Server:
    """A whole server. `start` returns once its ports are bound; models load in the background.

    Raises:
        OSError: a port is taken.
        FailedPrecondition: see `build`.
    """

    def __init__(self, settings: Settings, log: LogSettings) -> None:
        self._settings = settings
        tls, access, followed = _security(settings)
        self._watcher = Watcher(followed)
        self._spans = _spans(settings)
        self._core = core = build(settings)
        try:
            make = selection.choose(settings.transport)
            limits = _limits(settings)
            self._transport: Transport = make(
                addresses.target(settings.host, settings.grpc_port),
                _handlers(settings, core, log, access, self._spans),
                list((channel_arguments(limits) | settings.grpc_options).items()),
                None if tls is None else tls.credentials,
                limits,
            )
            self._monitoring = MonitoringServer(
                settings.monitoring_host,
                settings.metrics_port,
                _registry(core, _name_of(self._transport)),
                _routes(core, settings),
            )
        except Exception:
            core.stop(timeout_s=0)
            raise

    @property
    def grpc_port(self) -> int:
        return self._transport.port

    @property
    def metrics_port(self) -> int:
        return self._monitoring.port

    def start(self) -> None:
        """Starts to answer; the server is ready once the models have settled."""
        self._transport.start()
        self._monitoring.start()
        self._watcher.start()
        for warning in exposure.warnings(_exposure(self._settings)):
            logger.warning("%s", warning)
        grpc_address = addresses.target(self._settings.host, self.grpc_port)
        metrics_address = addresses.target(self._settings.monitoring_host, self.metrics_port)
        logger.info("gRPC on %s, metrics on %s", grpc_address, metrics_address)
        self._core.control.start()

    def stop(self) -> None:
        """Reports 'not ready', keeps serving for the drain delay, lets calls in flight finish, and stops."""
        self._core.dataplane.drain()
        time.sleep(self._settings.drain_delay_s)
        self._core.changes.end()
        self._watcher.stop()
        self._transport.stop(self._settings.drain_timeout_s)
        self._core.stop()
        if self._spans is not None:
            self._spans.stop()
        self._monitoring.stop()


def _routes(core: Core, settings: Settings) -> dict[str, Route]:
    """What the monitoring port answers besides /metrics."""
    status = Status(
        core.dataplane,
        core.repository,
        core.engines,
        core.metrics,
        core.requests,
        name=settings.server_name,
        version=importlib.metadata.version("turnout"),
    )
    return {
        page.PATH: page.answer,
        status_json.PATH: status.answer,
        "/healthz": probe(lambda: True, "live", ""),
        "/readyz": probe(core.dataplane.ready, "ready", "not ready"),
        explain_http.PATH: lambda query: Answer(*explain_http.answer(core.explainer.explain, query)),
    }


def _name_of(transport: Transport) -> str:
    """The setting that chooses this transport."""
    return type(transport).__module__.rpartition(".")[2].replace("_", "-")


def _registry(core: Core, transport: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in (
        core.metrics,
        TritonMetrics(core.metrics, core.repository.ready, core.requests),
        ModelMetrics(core.repository.ready, core.requests),
        HostMetrics(),
        BuildInfo(transport),
    ):
        registry.register(collector)
    if (gpus := gpu_metrics.gpu_metrics()) is not None:
        registry.register(gpus)
    return registry


def _security(settings: Settings) -> tuple[TlsCredentials | None, Access, list[Followed]]:
    """What protects the gRPC port, and the files that it follows.

    Raises:
        FailedPrecondition: a file can't be used; the text names it, and nothing secret that is in it.
    """
    tls, known = None, None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        files = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        tls = _checked("TLS", lambda: TlsCredentials(files))
    if (path := settings.tokens) is not None:
        known = _checked("--tokens", lambda: tokens.watched(path))
    access = Access(None if known is None else lambda: known.value, control=settings.allow_control)
    followed: list[Followed] = [] if tls is None else [tls.files]
    return tls, access, followed if known is None else [*followed, known]


def _checked(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as error:
        raise FailedPrecondition(f"{what}: {error}") from None


def _exposure(settings: Settings) -> exposure.Exposure:
    return exposure.Exposure(
        grpc_host=settings.host,
        metrics_host=settings.monitoring_host,
        tls=settings.tls_certificate is not None,
        authenticated=settings.tokens is not None or settings.tls_client_ca is not None,
        loads=settings.model_control_mode == "explicit",
        control=settings.allow_control,
    )


def _spans(settings: Settings) -> "Spans | None":
    """What makes OpenTelemetry spans; None if the settings don't ask for them.

    Raises:
        FailedPrecondition: OpenTelemetry isn't installed.
    """
    if not settings.otel:
        return None
    try:
        from turnout_server.observability.spans import Spans  # noqa: PLC0415, an extra that most servers don't have
    except ImportError as error:
        raise FailedPrecondition(f"--otel: {error}; install turnout[otel]") from None
    return Spans(settings.server_name, importlib.metadata.version("turnout"))


def _handlers(settings: Settings, core: Core, log: LogSettings, access: Access, spans: "Spans | None") -> Handlers:
    memory = SharedMemory() if settings.allow_client_shm else None
    extensions = [*EXTENSIONS, *(["system_shared_memory"] if memory else [])]
    version = importlib.metadata.version("turnout")
    inference = InferenceService(core.dataplane, Codec(memory, settings.max_message_bytes), core.inline, spans)
    models = ModelService(core.dataplane, core.control, settings.server_name, version, extensions)
    extras = ExtensionService(memory, core.tracer, log, core.repository)
    health = HealthService(core.dataplane)
    return Handlers(
        unary={**models.unary(), **inference.unary(), **access.guarded(extras.unary()), **health.unary()},
        stream={**inference.stream(), **health.stream(), **(reflection.handlers() if settings.reflection else {})},
        inline=core.inline,
        refusal=access.refusal if access.restricted else None,
    )


def _limits(settings: Settings) -> Limits:
    """What one client may hold of the server."""
    in_flight_mb = settings.max_in_flight_mb
    return Limits(
        message_bytes=settings.max_message_bytes,
        streams=settings.max_streams,
        age_s=settings.max_connection_age_s,
        age_grace_s=settings.max_connection_grace_s,
        idle_s=settings.max_connection_idle_s,
        stall_s=settings.stall_timeout_s,
        in_flight_bytes=usable_memory_bytes() // 4 if in_flight_mb is None else in_flight_mb * 2**20,
    )
