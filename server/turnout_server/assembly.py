"""Assembles the core: devices, models and the data plane over them, each object made from the settings and passed on."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from turnout_server.core.device_names import AUTO, entries_of, kind_of
from turnout_server.core.errors import STATUS, FailedPrecondition
from turnout_server.core.listeners import Listeners
from turnout_server.core.metrics import DeviceState, Key, Metrics
from turnout_server.devices import engines
from turnout_server.devices.engines import Engines
from turnout_server.devices.installation import check_installation
from turnout_server.devices.places import Place, places_of
from turnout_server.explain.gather import Explainer
from turnout_server.models.control import Control
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.profiler import Profiler
from turnout_server.models.repository import Limits, Repository
from turnout_server.scheduling import routing
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.executor import Executor
from turnout_server.serving.inline import InlineRunner
from turnout_server.serving.plans import Planner
from turnout_server.serving.selection import Selector
from turnout_server.serving.tracing import Tracer
from turnout_server.settings import Settings

logger = logging.getLogger(__name__)


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
    limits = Limits(settings.max_loaded_models, settings.max_loaded_mb * 2**20)
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
        tries_cores=not settings.max_loaded_mb,
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


def _expected_series(repository: Repository) -> list[Key]:
    """What the loaded models will count under: each with its devices, and with none for requests that fail before."""
    return [
        (version.name, str(version.version), device) for version in repository.ready() for device in ("", *version.deployments)
    ]


def _executor(place: Place, runners: Mapping[str, BatchRunner], limit: int) -> Executor:
    """The executor of a place. Its threads are pinned to the place's cores unless they only wait for device processes."""
    here = {device.name: runners[device.name] for device in place.devices}
    pinned = () if all(device.isolated for device in place.devices) else place.cpus
    own = {device.name: device.instances for device in place.devices}
    return Executor(here, instances=place.instances, limit=limit, cpus=pinned, own=own, cores=place.cores)


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
