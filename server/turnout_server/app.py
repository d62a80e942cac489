"""The composition root: builds every object from the settings and passes it to the objects that need it."""

import importlib.metadata
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector

from turnout_server.core.device_names import AUTO, entries_of, kind_of
from turnout_server.core.errors import STATUS, FailedPrecondition
from turnout_server.core.listeners import Listeners
from turnout_server.core.metrics import DeviceState, Key, Metrics
from turnout_server.core.watched_files import Followed, Watcher
from turnout_server.devices import engines
from turnout_server.devices.engines import Engines
from turnout_server.devices.host import usable_memory_bytes
from turnout_server.devices.installation import check_installation
from turnout_server.devices.places import Place, places_of
from turnout_server.explain import http as explain_http
from turnout_server.explain.gather import Explainer
from turnout_server.models.control import Control
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.profiler import Profiler
from turnout_server.models.repository import Limits as RepositoryLimits
from turnout_server.models.repository import Repository
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
from turnout_server.scheduling import routing
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.executor import Executor
from turnout_server.serving.inline import InlineRunner
from turnout_server.serving.plans import Planner
from turnout_server.serving.selection import Selector
from turnout_server.serving.tracing import Tracer
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


@dataclass(frozen=True)
class Core:
    """A server without its network side: devices, models, and the data plane over them.

    Attributes:
        executors: by device name; devices that share a place have the same.
        inline: runs very short jobs in the transport's thread.
        changes: notified whenever readiness may have changed.
    """

    engines: Engines
    executors: Mapping[str, Executor]
    inline: InlineRunner
    metrics: Metrics
    profiler: Profiler
    repository: Repository
    control: Control
    dataplane: DataPlane
    explainer: Explainer
    tracer: Tracer
    changes: Listeners

    def requests(self, deployment: Deployment) -> tuple[int, int]:
        """How many requests wait for a model on a device, and how many run there."""
        executor = self.executors[deployment.device]
        waiting = deployment.account.waiting + self.inline.waiting_for(deployment)
        return waiting, executor.running_of(deployment)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Ends every thread and process; queued requests have `timeout_s` to finish."""
        self.profiler.stop()
        self.control.stop()
        self.inline.stop()
        for executor in set(self.executors.values()):
            executor.stop(timeout_s)
        self.engines.stop()
        self.tracer.close()


def build(settings: Settings, running: Engines | None = None) -> Core:
    """Builds the core. No model is loaded yet.

    Args:
        running: the devices, already started; None to start those that the settings declare and the machine has.

    Raises:
        FailedPrecondition: the installation is broken, a declared device doesn't work, or the repository can't be read; the
            text has the fix.
    """
    check_installation()
    changes, device_changes = Listeners(), Listeners()
    device_changes.add(changes.notify)
    if running is None:
        running = engines.bring_up(settings.declared_devices(), settings.disabled(), device_changes.notify, settings.cache_dir)
    try:
        return _assemble(settings, running, changes, device_changes)
    except Exception:
        running.stop()
        raise


def _assemble(settings: Settings, running: Engines, changes: Listeners, device_changes: Listeners) -> Core:
    _warn_about_missing_default(settings.default_device, running)
    ready_when = _checked_ready_when(settings.ready_when, running)
    metrics = Metrics(
        lambda: _device_states(running, executors, inline),
        lambda: _expected_series(repository),
        routing.REASONS,
        sorted(set(STATUS.values())),
    )
    runners = {name: BatchRunner(name, metrics) for name in running.by_name}
    in_process = {name: runners[name] for name, engine in running.by_name.items() if not engine.device.isolated}
    inline = InlineRunner(in_process, settings.max_queue_size)
    store = ProfileStore(settings.cache_dir)
    limits = RepositoryLimits(settings.max_loaded_models, settings.max_loaded_mb * 2**20)
    repository = Repository(
        settings.model_repository,
        Loader(running.by_name, store),
        settings.model_name,
        limits,
        follow_links=settings.follow_links,
    )
    executors = {
        device.name: executor
        for place in places_of([engine.device for engine in running.by_name.values()])
        for executor in [_executor(place, runners, settings.max_queue_size)]
        for device in place.devices
    }
    profiler = Profiler(
        store,
        idle=lambda name: executors[name].idle and not inline.waiting(name),
        works=lambda name: running.by_name[name].unavailable_reason() is None,
        budget_s=settings.profile_budget_s,
    )
    control = Control(
        repository,
        profiler,
        changes,
        mode=settings.model_control_mode,
        load_models=settings.load_model,
        poll_s=settings.repository_poll_s,
    )
    device_changes.add(control.reopen)
    planner = Planner(tuple(running.by_name), settings.default_device, settings.objective)
    selector = Selector(running, executors)
    tracer = Tracer(settings.trace_file)
    dataplane = DataPlane(
        repository=repository,
        engines=running,
        executors=executors,
        planner=planner,
        selector=selector,
        metrics=metrics,
        ready_when=ready_when,
        changes=changes,
        tracer=tracer,
    )
    explainer = Explainer(repository, running, executors, planner, selector)
    return Core(
        engines=running,
        executors=executors,
        inline=inline,
        metrics=metrics,
        profiler=profiler,
        repository=repository,
        control=control,
        dataplane=dataplane,
        explainer=explainer,
        tracer=tracer,
        changes=changes,
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


def _device_states(running: Engines, executors: Mapping[str, Executor], inline: InlineRunner) -> dict[str, DeviceState]:
    return {
        name: DeviceState(
            executors[name].waiting(name) + inline.waiting(name),
            executors[name].running(name),
            engine.unavailable_reason() is None,
            engine.restarts,
            engine.device.instances,
            engine.device.idle_w,
            engine.device.busy_w,
        )
        for name, engine in running.by_name.items()
    }


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


def _expected_series(repository: Repository) -> list[Key]:
    """What the loaded models will count under: each with its devices, and with none for requests that fail before."""
    return [
        (version.name, str(version.version), device) for version in repository.ready() for device in ("", *version.deployments)
    ]


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


def _executor(place: Place, runners: Mapping[str, BatchRunner], limit: int) -> Executor:
    """The executor of a place. Its threads are pinned to the place's cores unless they only wait for device processes."""
    here = {device.name: runners[device.name] for device in place.devices}
    pinned = () if all(device.isolated for device in place.devices) else place.cpus
    own = {device.name: device.instances for device in place.devices}
    return Executor(here, instances=place.instances, limit=limit, cpus=pinned, own=own)


def _checked_ready_when(ready_when: str, devices: Engines) -> str:
    """`ready_when`, after checking that the device it names exists."""
    if ready_when not in ("any", "all", *devices.by_name):
        why = _why_missing(ready_when, devices)
        raise FailedPrecondition(f"--ready-when={ready_when}: {why}; it must be any, all or one of {list(devices.by_name)}")
    return ready_when


def _why_missing(name: str, devices: Engines) -> str:
    """Why there is no device of this name or kind."""
    return routing.why_missing(name, devices.missing) or "there is no such device"


def _warn_about_missing_default(default_device: str, devices: Engines) -> None:
    """Logs a warning if every request that names no device will fail, because the default device is missing."""
    entries = entries_of(default_device, {kind_of(name) for name in devices.by_name})
    if {AUTO, *devices.by_name, *map(kind_of, devices.by_name)}.isdisjoint(entries):
        why = "; ".join(dict.fromkeys(_why_missing(entry, devices) for entry in entries))
        logger.warning("requests that name no device will fail: --default-device=%s: %s", default_device, why)


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
