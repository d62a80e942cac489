"""Builds a server out of its parts and runs it: the only place where they all meet."""

import importlib.metadata
import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry

from turnout_server.core.device_names import AUTO, entries_of, kind_of
from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.listeners import Listeners
from turnout_server.core.metrics import DeviceState, Metrics
from turnout_server.devices import engines, sessions
from turnout_server.devices.device import Device
from turnout_server.devices.engines import Engines
from turnout_server.models.control import Control
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.profiler import Profiler
from turnout_server.models.repository import Limits, Repository
from turnout_server.observability import gpu_metrics as nvml
from turnout_server.observability.http import MonitoringServer
from turnout_server.observability.log_settings import LogSettings
from turnout_server.observability.model_metrics import ModelMetrics
from turnout_server.observability.triton_metrics import TritonMetrics
from turnout_server.rpc import reflection
from turnout_server.rpc.extensions import ExtensionService
from turnout_server.rpc.health import HealthService
from turnout_server.rpc.inference import InferenceService
from turnout_server.rpc.models import ModelService
from turnout_server.scheduling import routing
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.executor import Executor
from turnout_server.serving.tracing import Tracer
from turnout_server.settings import Settings
from turnout_server.transport import selection
from turnout_server.transport.base import Handlers, Transport
from turnout_server.wire.codec import Codec
from turnout_server.wire.shared_memory import SharedMemory

logger = logging.getLogger(__name__)

#: What ServerMetadata lists: only what really works.
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
        FailedPrecondition: the installation is broken; the text has the fix.
    """

    def __init__(self, settings: Settings, log: LogSettings) -> None:
        sessions.check_installation()
        self._settings = settings
        self._changes = Listeners()
        device_changes = Listeners()
        device_changes.add(self._changes.notify)
        self._engines = engines.bring_up(settings.declared_devices(), settings.disabled(), device_changes.notify)
        _warn_of_no_default(settings.default_device, self._engines)
        metrics = Metrics(self._device_states)
        self._executors = {
            name: Executor(name, metrics, engine.device.instances, settings.max_queue_size, cpus=_pinned_to(engine.device))
            for name, engine in self._engines.by_name.items()
        }
        self._in_process = [
            self._executors[name] for name, engine in self._engines.by_name.items() if not engine.device.isolated
        ]
        store = ProfileStore(settings.cache_dir)
        self._profiler = Profiler(
            store,
            lambda name: not self._executors[name].in_flight(),
            settings.profile_budget_s,
            lambda name: self._engines.by_name[name].problem() is None,
        )
        repository = Repository(
            settings.model_repository,
            Loader(self._engines.by_name, store),
            settings.model_name,
            self._changes.notify,
            self._profiler.add,
            self._profiler.settle,
            Limits(settings.max_loaded_models, settings.max_loaded_mb * 2**20),
            lambda name: self._control.bring_back(name),  # noqa: PLW0108 - it is made below
        )
        self._control = Control(repository, settings.model_control_mode, settings.load_model, settings.repository_poll_s)
        device_changes.add(self._control.reopen)
        self._tracer = Tracer(settings.trace_file)
        self._dataplane = DataPlane(
            repository,
            self._engines,
            self._executors,
            metrics,
            settings.default_device,
            settings.objective,
            _existing(settings.ready_when, self._engines),
            self._changes,
            self._tracer,
        )
        registry = CollectorRegistry()
        registry.register(metrics)
        registry.register(TritonMetrics(metrics))
        registry.register(ModelMetrics(repository.ready))
        if (gpus := nvml.gpu_metrics()) is not None:
            registry.register(gpus)
        self._transport: Transport = selection.choose(settings.transport)(
            f"{settings.host}:{settings.grpc_port}", self._handlers(settings, log), _options(settings), None
        )
        self._monitoring = MonitoringServer(
            settings.host, settings.metrics_port, registry, self._dataplane.ready, self._dataplane.explain
        )

    @property
    def grpc_port(self) -> int:
        return self._transport.port

    @property
    def metrics_port(self) -> int:
        return self._monitoring.port

    def start(self) -> None:
        """Answers from now on; ready once the models have settled."""
        self._transport.start()
        self._monitoring.start()
        host = self._settings.host
        logger.info("gRPC on %s:%d, metrics on %s:%d", host, self.grpc_port, host, self.metrics_port)
        self._control.start()

    def stop(self) -> None:
        """Says 'not ready', goes on serving for the drain delay, lets calls in flight finish, and ends."""
        self._dataplane.drain()
        time.sleep(self._settings.drain_delay_s)
        self._changes.end()
        self._transport.stop(self._settings.drain_timeout_s)
        self._profiler.stop()
        self._control.stop()
        for executor in self._executors.values():
            executor.stop(timeout_s=1.0)
        self._engines.stop()
        self._tracer.close()
        self._monitoring.stop()

    def _device_states(self) -> dict[str, DeviceState]:
        return {
            name: DeviceState(self._executors[name].in_flight(), engine.problem() is None, engine.restarts)
            for name, engine in self._engines.by_name.items()
        }

    def _drained(self) -> bool:
        """Lets the transport's thread run the tiny work it brought for the devices in this process; True if there is more."""
        return any([executor.drained() for executor in self._in_process])

    def _handlers(self, settings: Settings, log: LogSettings) -> Handlers:
        memory = SharedMemory() if settings.allow_client_shm else None
        extensions = [*EXTENSIONS, *(["system_shared_memory"] if memory else [])]
        version = importlib.metadata.version("turnout")
        inference = InferenceService(self._dataplane, Codec(memory))
        models = ModelService(self._dataplane, self._control, settings.server_name, version, extensions)
        extras = ExtensionService(memory, self._tracer, log, self._dataplane.repository.knows)
        health = HealthService(self._dataplane)
        return Handlers(
            unary={**models.unary(), **inference.unary(), **extras.unary(), **health.unary()},
            stream={**inference.stream(), **health.stream(), **(reflection.handlers() if settings.reflection else {})},
            drained=self._drained,
        )


def _pinned_to(device: Device) -> tuple[int, ...]:
    """The cores that a device's worker threads keep to; where it has a process of its own, that does, and they only wait."""
    return () if device.isolated else device.cpus


def _existing(ready_when: str, devices: Engines) -> str:
    """`ready_when`, once it is known not to wait for ever."""
    if ready_when not in ("any", "all", *devices.by_name):
        why = _absence(ready_when, devices)
        raise FailedPrecondition(f"--ready-when={ready_when}: {why}; it must be any, all or one of {list(devices.by_name)}")
    return ready_when


def _absence(name: str, devices: Engines) -> str:
    """Why there is no such device, or none of such a kind."""
    return routing.why_missing(name, devices.missing) or "there is no such device"


def _warn_of_no_default(default_device: str, devices: Engines) -> None:
    """Says so where every request that names no device will fail, because the default isn't there."""
    entries = entries_of(default_device, {kind_of(name) for name in devices.by_name})
    if {AUTO, *devices.by_name, *map(kind_of, devices.by_name)}.isdisjoint(entries):
        why = "; ".join(dict.fromkeys(_absence(entry, devices) for entry in entries))
        logger.warning("requests that name no device will fail: --default-device=%s: %s", default_device, why)


def _options(settings: Settings) -> list[tuple[str, Any]]:
    ours = {
        "grpc.so_reuseport": 0,  # else a second server on a taken port starts happily and steals its calls
        "grpc.max_receive_message_length": settings.max_message_bytes,
        "grpc.max_send_message_length": settings.max_message_bytes,
    }
    return list({**ours, **settings.grpc_options}.items())
