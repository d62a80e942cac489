"""Turns a version directory into something that answers requests: a session on each device, a signature, a first profile."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from turnout_server.core.errors import FailedPrecondition, Overloaded, ServingError
from turnout_server.core.model_config import DEFAULT_MAX_BATCH_SIZE, ModelConfiguration
from turnout_server.core.signatures import Signature, declared, graph_shape_of
from turnout_server.devices import openvino
from turnout_server.devices.device import Device
from turnout_server.devices.discovery import fingerprint
from turnout_server.devices.engines import Engine
from turnout_server.devices.hazards import hazards
from turnout_server.devices.host import why_no_isolation
from turnout_server.devices.run_limit import limited
from turnout_server.devices.sessions import Session, runtime_version
from turnout_server.models import graph_inputs, manifest
from turnout_server.models.deployments import Deployment, DeviceReport
from turnout_server.models.file_kinds import unlike_a_model
from turnout_server.models.files import located, model_path, precision_of, weight_bytes
from turnout_server.models.manifest import Manifest
from turnout_server.models.profile_store import ProfileKey, ProfileStore, sha256_of
from turnout_server.models.tuning import ModelFile, Tuned, for_batches, with_fitting_threads
from turnout_server.models.verification import Parity, Verifiable, golden, verify
from turnout_server.models.warmup import measured, rows_are_independent, run_configured, tolerance_of
from turnout_server.scheduling.profiles import Profile

logger = logging.getLogger(__name__)

#: The most rows of a batch on a GPU, for models whose configuration doesn't say.
GPU_MAX_BATCH_SIZE = 256
#: Runs of a hazardous model while it is loaded end after this long all together, because one of them may have no end.
RUNS_S = 120.0
#: How many hazards of a model are listed.
MAX_DANGERS = 3
#: How long a device that is restarting is waited for.
RESTART_S = 5.0
#: Different `device` values that are remembered for each model.
LAST_ROUTES = 64


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A loaded version.

    Attributes:
        deployments: by the names of the devices that it runs on.
        unavailable: why it doesn't run on the others.
        last_routes: the device chosen last, by what was asked for.
    """

    name: str
    version: int
    configuration: ModelConfiguration
    signature: Signature
    deployments: Mapping[str, Deployment]
    unavailable: Mapping[str, ServingError]
    last_routes: dict[str, str] = field(default_factory=dict)

    @property
    def batchable(self) -> bool:
        """Whether requests may be batched on any of its devices."""
        return any(deployment.batchable for deployment in self.deployments.values())

    def remember(self, requested: str, device: str) -> None:
        """The device chosen last for what was asked for; forgets all when clients find ever new words for it."""
        if len(self.last_routes) >= LAST_ROUTES:
            self.last_routes.clear()
        self.last_routes[requested] = device


class Loader:
    """Opens model versions on the devices of this server.

    Args:
        store: where profiles of earlier starts may be.
    """

    def __init__(self, engines: Mapping[str, Engine], store: ProfileStore) -> None:
        self._engines = engines
        self._store = store

    def load(self, directory: Path, number: int, configuration: ModelConfiguration) -> ModelVersion:
        """Opens a version on every device that the model may use, and shows that it computes the same on each.

        Args:
            directory: the version's, with its ONNX files.

        Raises:
            FailedPrecondition: it runs on none of them, or isn't what its configuration says.
        """
        endless = any(hazards(self._file(directory, configuration, name)) for name in self._engines)
        with limited(time.monotonic() + RUNS_S) if endless else nullcontext():
            return self._load(directory, number, configuration)

    def _load(self, directory: Path, number: int, configuration: ModelConfiguration) -> ModelVersion:
        unavailable: dict[str, ServingError] = {}
        sessions, load_s = self._open_all(directory, configuration, unavailable)
        _require(sessions, unavailable)
        published = manifest.read(directory)
        parities = self._verify(directory, configuration, published, sessions, unavailable)
        _require(sessions, unavailable)
        independent = self._independent(directory, configuration, sessions)
        signature = published.limit(self._signature(directory, configuration, sessions, independent))
        batchable = _batchable(configuration, signature, independent)
        for device, reason in unavailable.items():
            logger.warning("model %s version %d does not run on %s: %s", configuration.name, number, device, reason)
        tuned = {
            device: self._tuned(directory, configuration, sessions.pop(device), device, signature, batchable.get(device, False))
            for device in list(sessions)
        }
        dangers = {device: hazards(self._file(directory, configuration, device)) for device in tuned}
        notes = {device: (*result.notes, *self._guarded(device, dangers[device])) for device, result in tuned.items()}
        for device, result in tuned.items():
            for note in notes[device]:
                logger.info("model %s version %d on %s: %s", configuration.name, number, device, note)
            run_configured(configuration.name, result.session, signature, configuration.warmups)
        keys = self._profile_keys(directory, configuration, tuned)
        deployments: dict[str, Deployment] = {}
        for name, result in tuned.items():
            place = self._engines[name].device
            deployments[name] = Deployment(
                key=(configuration.name, str(number), name),
                session=result.session,
                profile=self._profile(keys.get(name), result.session),
                max_rows=result.max_rows,
                batchable=batchable.get(name, False),
                queue=configuration.queue,
                instances=configuration.instances_on(name, place.kind),
                weight=configuration.weight,
                target_us=configuration.latency_target_us,
                precision=precision_of(directory, configuration.file_for(name, place.kind)),
                profile_key=keys.get(name),
                hazards=dangers[name],
                narrowed=openvino.narrowed(place, result.session.inputs),
                report=DeviceReport(load_s[name], result.session.placement, parities[name], notes[name]),
            )
        return ModelVersion(configuration.name, number, configuration, signature, deployments, unavailable)

    def _file(self, directory: Path, configuration: ModelConfiguration, device: str) -> Path:
        """The file of a version that a device runs."""
        return located(directory, configuration.file_for(device, self._engines[device].device.kind))

    def _guarded(self, device: str, dangers: Sequence[str]) -> tuple[str, ...]:
        """What to say of a model's hazards: what they are, and whether the server is safe from them."""
        if not dangers:
            return ()
        place = self._engines[device].device
        safe = place.isolated or (place.guarded and why_no_isolation() is None)
        return (f"{'' if safe else 'NOT '}in a process of its own: {'; '.join(dangers[:MAX_DANGERS])}",)

    def kinds(self) -> set[str]:
        """The kinds of the devices."""
        return {engine.device.kind for engine in self._engines.values()}

    def weight_bytes(self, directory: Path, configuration: ModelConfiguration) -> int:
        """What a version's weights take on all the devices that it may use."""
        allowed = [e.device for e in self._engines.values() if configuration.allows(e.device.name, e.device.kind)]
        files = [located(directory, configuration.file_for(device.name, device.kind)) for device in allowed]
        sizes = {file: weight_bytes(file) for file in set(files)}
        return sum(sizes[file] for file in files)

    def _open_all(
        self, directory: Path, configuration: ModelConfiguration, unavailable: dict[str, ServingError]
    ) -> tuple[dict[str, Session], dict[str, float]]:
        """Sessions, and the seconds each took to open; `unavailable` gets the devices that have none."""
        sessions: dict[str, Session] = {}
        load_s: dict[str, float] = {}
        for device, engine in self._engines.items():
            started_s = time.monotonic()
            try:
                sessions[device] = self._open(directory, configuration, engine)
            except ServingError as error:
                unavailable[device] = error
            load_s[device] = time.monotonic() - started_s
        return sessions, load_s

    def _open(self, directory: Path, configuration: ModelConfiguration, engine: Engine) -> Session:
        device = engine.device
        if not configuration.allows(device.name, device.kind):
            raise FailedPrecondition(
                f"model '{configuration.name}' is not allowed on device '{device.name}' by its configuration, "
                f"which lists {list(configuration.devices)}"
            )
        model = _model_file(directory, configuration, engine)
        _require_room(model.path, device)
        engine.await_ready(RESTART_S)  # an earlier model may have ended its process
        try:
            return with_fitting_threads(model)
        except FailedPrecondition as error:
            raise FailedPrecondition(unlike_a_model(model.path) or str(error)) from None

    def _verify(
        self,
        directory: Path,
        configuration: ModelConfiguration,
        published: Manifest,
        sessions: dict[str, Session],
        unavailable: dict[str, ServingError],
    ) -> dict[str, Parity]:
        """How far each device is off; those that are too far lose their session and get a problem."""
        parities: dict[str, Parity] = {}
        devices = {name: Verifiable(session, self._engines[name].device.provider) for name, session in sessions.items()}
        known, allowed = golden(directory), configuration.serves_unverified
        tolerances = {
            name: max(
                configuration.tolerance,
                published.tolerances.get(configuration.file_for(name, self._engines[name].device.kind), 0.0),
            )
            for name in sessions
        }
        for device, result in verify(devices, known, tolerances, unverified=allowed).items():
            if isinstance(result, Parity):
                parities[device] = result
            else:
                unavailable[device] = result
                del sessions[device]
        return parities

    def _independent(
        self, directory: Path, configuration: ModelConfiguration, sessions: Mapping[str, Session]
    ) -> dict[str, bool]:
        """Whether rows were shown not to depend on each other, by device; empty where nothing depends on it."""
        if configuration.max_batch_size == 0 or (configuration.max_batch_size and not configuration.batches):
            return {}
        shown = {}
        for name, session in sessions.items():
            device = self._engines[name].device
            precision = precision_of(directory, configuration.file_for(name, device.kind))
            shown[name] = rows_are_independent(session, tolerance_of(precision, device))
        return shown

    def _signature(
        self,
        directory: Path,
        configuration: ModelConfiguration,
        sessions: Mapping[str, Session],
        independent: Mapping[str, bool],
    ) -> Signature:
        """What the model takes and gives, as its configuration shows it."""
        max_batch_size = configuration.max_batch_size
        if max_batch_size is None:
            limits = [default_max_batch(self._engines[device].device) for device, shown in independent.items() if shown]
            max_batch_size = max(limits, default=0)
        name, session = next(iter(sessions.items()))
        file = model_path(directory, configuration.file_for(name, self._engines[name].device.kind))
        defaults = graph_inputs.read(file).defaults
        inputs = declared(session.inputs, configuration.inputs, max_batch_size, "input", defaults)
        outputs = declared(session.outputs, configuration.outputs, max_batch_size, "output")
        return Signature(inputs, outputs, max_batch_size)

    def _tuned(
        self,
        directory: Path,
        configuration: ModelConfiguration,
        session: Session,
        name: str,
        signature: Signature,
        batchable: bool,
    ) -> Tuned:
        """The session, or a better one for the batches that the model may have on a device."""
        device = self._engines[name].device
        file = configuration.file_for(name, device.kind)
        model = _model_file(directory, configuration, self._engines[name])
        if not batchable:
            return Tuned(session, model.options, max_rows=1)
        tolerance = tolerance_of(precision_of(directory, file), device)
        return for_batches(model, session, _row_limit(configuration, signature, device), tolerance)

    def _profile_keys(
        self, directory: Path, configuration: ModelConfiguration, tuned: Mapping[str, Tuned]
    ) -> dict[str, ProfileKey]:
        """What the profile on each device is true of; nothing where profiles aren't kept, because hashing reads whole files."""
        if not self._store.keeps:
            return {}
        devices = {name: self._engines[name].device for name in tuned}
        files = {name: configuration.file_for(name, device.kind) for name, device in devices.items()}
        hashes = {file: sha256_of(model_path(directory, file)) for file in set(files.values())}
        return {
            name: ProfileKey(
                model_sha256=hashes[files[name]],
                file=files[name],
                device=fingerprint(device),
                runtime=runtime_version(),
                options=tuned[name].fingerprint(),
            )
            for name, device in devices.items()
        }

    def _profile(self, key: ProfileKey | None, session: Session) -> Profile:
        """The one that an earlier start kept, or a first measurement."""
        return (self._store.load(key) if key else None) or measured(session)


def _model_file(directory: Path, configuration: ModelConfiguration, engine: Engine) -> ModelFile:
    """The file of a model on a device. Where the graph states no rank, the configuration's dimensions count.

    Raises:
        FailedPrecondition: the file isn't there, or nothing says what shape an input has.
    """
    path = model_path(directory, configuration.file_for(engine.device.name, engine.device.kind))
    by_name = {config.name: config for config in (*configuration.inputs, *configuration.outputs)}
    graph = graph_inputs.read(path)
    if unknown := sorted(graph.unranked_inputs - by_name.keys()):
        raise FailedPrecondition(
            f"the ONNX graph states no shape for input '{unknown[0]}': give its dims in an input section of config.pbtxt"
        )
    batch = configuration.max_batch_size or 0
    unranked = (graph.unranked_inputs | graph.unranked_outputs) & by_name.keys()
    shapes = {name: graph_shape_of(by_name[name], batch) for name in sorted(unranked)}
    return ModelFile(engine, path, replace(configuration.runtime, shapes=shapes))


def _require(sessions: dict[str, Session], unavailable: dict[str, ServingError]) -> None:
    if not sessions:
        raise FailedPrecondition("; ".join(f"{device}: {reason}" for device, reason in unavailable.items()))


def _batchable(configuration: ModelConfiguration, signature: Signature, independent: Mapping[str, bool]) -> dict[str, bool]:
    """Whether requests may be batched on each device: only where rows were shown not to depend on each other."""
    if not signature.max_batch_size or not configuration.batches:
        return {}
    if mixing := [device for device, shown in independent.items() if not shown]:
        logger.warning(
            "model %s is served unbatched on %s: rows run together could not be shown to equal rows run alone",
            configuration.name,
            ", ".join(mixing),
        )
    return dict(independent)


def default_max_batch(device: Device) -> int:
    """The most rows of a batch on a device, for models whose configuration doesn't say."""
    return DEFAULT_MAX_BATCH_SIZE if device.kind == "cpu" else GPU_MAX_BATCH_SIZE


def _row_limit(configuration: ModelConfiguration, signature: Signature, device: Device) -> int:
    limit = signature.max_batch_size
    return limit if configuration.max_batch_size is not None else min(limit, default_max_batch(device))


def _require_room(file: Path, device: Device) -> None:
    """Raises Overloaded where a GPU's memory limit is too small for the weights, which ONNX Runtime allocates outside of it."""
    if not device.is_cuda or not device.memory_limit_mb:
        return
    weights_mb = weight_bytes(file) / 2**20
    if weights_mb > device.memory_limit_mb:
        raise Overloaded(
            f"a model of {weights_mb:.1f} MiB does not fit into the memory of device '{device.name}', "
            f"which may take {device.memory_limit_mb} MiB"
        )
