"""Turns a version directory into something that answers requests: a session on each device, a signature, a first profile."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from turnout_server.core.errors import FailedPrecondition, ServingError
from turnout_server.core.model_config import DEFAULT_MAX_BATCH_SIZE, ModelConfiguration
from turnout_server.core.signatures import Signature, declared
from turnout_server.devices.discovery import fingerprint
from turnout_server.devices.engines import Engine
from turnout_server.devices.sessions import Session, runtime_version
from turnout_server.models.deployments import Deployment, DeviceReport
from turnout_server.models.files import precision_of, weight_bytes
from turnout_server.models.profile_store import ProfileKey, ProfileStore, sha256_of
from turnout_server.models.verification import Parity, samples, verify
from turnout_server.models.warmup import measured, quickest_us, rows_are_independent, run_configured
from turnout_server.scheduling.profiles import Profile

logger = logging.getLogger(__name__)

#: A run that is longer than this is worth sharing out between threads.
SMALL_US = 2000.0
#: Different `device` values that are remembered for each model.
LAST_ROUTES = 64


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A loaded version.

    Attributes:
        deployments: by the names of the devices that it runs on.
        unavailable: why it doesn't run on the others.
        batchable: whether requests may be batched: its rows were shown not to depend on each other.
        last_routes: the device chosen last, by what was asked for.
    """

    name: str
    version: int
    configuration: ModelConfiguration
    signature: Signature
    deployments: Mapping[str, Deployment]
    unavailable: Mapping[str, ServingError]
    batchable: bool = True
    last_routes: dict[str, str] = field(default_factory=dict)

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
        unavailable: dict[str, ServingError] = {}
        sessions, load_s = self._open_all(directory, configuration, unavailable)
        _require(sessions, unavailable)
        parities = self._verify(directory, configuration, sessions, unavailable)
        _require(sessions, unavailable)
        independent = _independent(configuration, sessions)
        signature = _signature(configuration, *next(iter(sessions.items())), independent)
        for device, reason in unavailable.items():
            logger.warning("model %s version %d does not run on %s: %s", configuration.name, number, device, reason)
        for device, session in sessions.items():
            for rows, why in session.graphs.items():
                if why:
                    logger.warning("model %s has no CUDA graph for %d rows on %s: %s", configuration.name, rows, device, why)
        for session in sessions.values():
            run_configured(configuration.name, session, signature, configuration.warmups)
        batchable = _batchable(configuration, signature, independent)
        keys = self._profile_keys(directory, configuration, sessions)
        reports = {device: DeviceReport(load_s[device], s.placement, parities[device]) for device, s in sessions.items()}
        deployments: dict[str, Deployment] = {}
        for name, session in sessions.items():
            kind = self._engines[name].device.kind
            deployments[name] = Deployment(
                key=(configuration.name, str(number), name),
                session=session,
                profile=self._profile(keys.get(name), session),
                max_rows=signature.max_batch_size if batchable else 1,
                batchable=batchable,
                queue=configuration.queue,
                instances=configuration.instances_on(name, kind),
                weight=configuration.weight,
                target_us=configuration.latency_target_us,
                precision=precision_of(directory, configuration.file_for(name, kind)),
                profile_key=keys.get(name),
                report=reports[name],
            )
        return ModelVersion(configuration.name, number, configuration, signature, deployments, unavailable, batchable)

    def kinds(self) -> set[str]:
        """The kinds of the devices."""
        return {engine.device.kind for engine in self._engines.values()}

    def weight_bytes(self, directory: Path, configuration: ModelConfiguration) -> int:
        """What a version's weights take on all the devices that it may use, in each as often as that opens it."""
        allowed = [e.device for e in self._engines.values() if configuration.allows(e.device.name, e.device.kind)]
        files = [directory / configuration.file_for(device.name, device.kind) for device in allowed]
        sizes = {file: weight_bytes(file) for file in set(files)}
        return sum(sizes[file] * device.copies for file, device in zip(files, allowed, strict=True))

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
        file = _checked(directory / configuration.file_for(device.name, device.kind))
        session = engine.open(file, configuration.runtime)
        if device.kind == "cpu" and device.threads > 1 and configuration.runtime.intra_op_threads is None:
            return _with_fitting_threads(session, lambda: engine.open(file, replace(configuration.runtime, intra_op_threads=1)))
        return session

    def _verify(
        self,
        directory: Path,
        configuration: ModelConfiguration,
        sessions: dict[str, Session],
        unavailable: dict[str, ServingError],
    ) -> dict[str, Parity]:
        """How far each device is off; those that are too far lose their session and get a problem."""
        parities: dict[str, Parity] = {}
        known = samples(directory, next(iter(sessions.values())))
        for device, result in verify(sessions, known, configuration.tolerance).items():
            if isinstance(result, Parity):
                parities[device] = result
            else:
                unavailable[device] = result
                del sessions[device]
        return parities

    def _profile_keys(
        self, directory: Path, configuration: ModelConfiguration, sessions: dict[str, Session]
    ) -> dict[str, ProfileKey]:
        """What the profile on each device is true of; nothing where profiles aren't kept, because hashing reads whole files."""
        if not self._store.keeps:
            return {}
        devices = {name: self._engines[name].device for name in sessions}
        files = {name: configuration.file_for(name, device.kind) for name, device in devices.items()}
        hashes = {file: sha256_of(directory / file) for file in set(files.values())}
        return {
            name: ProfileKey(
                model_sha256=hashes[files[name]],
                file=files[name],
                device=fingerprint(device),
                runtime=runtime_version(),
                options=repr(configuration.runtime),
            )
            for name, device in devices.items()
        }

    def _profile(self, key: ProfileKey | None, session: Session) -> Profile:
        """The one that an earlier start kept, or a first measurement."""
        return (self._store.load(key) if key else None) or measured(session)


def _with_fitting_threads(session: Session, open_with_one: Callable[[], Session]) -> Session:
    """The session, or one with a single thread if the model is so small that sharing it out costs more than it saves.

    Three layers of 256 to 256 take half as long on one thread as on two (docs/results/benchmarks.md).
    """
    shared_us = quickest_us(session)
    if shared_us is None or shared_us > SMALL_US:
        return session
    alone = open_with_one()
    alone_us = quickest_us(alone)
    return session if alone_us is None or alone_us > shared_us else alone


def _require(sessions: dict[str, Session], unavailable: dict[str, ServingError]) -> None:
    if not sessions:
        raise FailedPrecondition("; ".join(f"{device}: {reason}" for device, reason in unavailable.items()))


def _independent(configuration: ModelConfiguration, sessions: dict[str, Session]) -> dict[str, bool]:
    """Whether rows were shown not to depend on each other, by device; empty where nothing hangs on it."""
    if configuration.max_batch_size == 0 or (configuration.max_batch_size and not configuration.batches):
        return {}
    return {device: rows_are_independent(session) for device, session in sessions.items()}


def _batchable(configuration: ModelConfiguration, signature: Signature, independent: dict[str, bool]) -> bool:
    """Whether requests may share a run, which must be shown on every device."""
    if not signature.max_batch_size or not configuration.batches:
        return False
    mixing = [device for device, shown in independent.items() if not shown]
    if mixing:
        logger.warning(
            "model %s is served unbatched: rows run together could not be shown to equal rows run alone on %s",
            configuration.name,
            ", ".join(mixing),
        )
    return not mixing


def _checked(path: Path) -> Path:
    """`path`, once it is known to be a plain file inside its model's directory."""
    if not path.resolve().is_relative_to(path.parent.parent.resolve()):
        raise FailedPrecondition(f"{path.name} leads out of its model's directory")
    if not path.exists():
        raise FailedPrecondition(f"there is no {path.name} in version directory '{path.parent.name}'")
    if not path.is_file():
        raise FailedPrecondition(f"{path.name} is not a regular file")
    return path


def _signature(configuration: ModelConfiguration, device: str, session: Session, independent: dict[str, bool]) -> Signature:
    """What the session on `device` takes and gives, as the configuration shows it."""
    max_batch_size = configuration.max_batch_size
    if max_batch_size is None:
        max_batch_size = DEFAULT_MAX_BATCH_SIZE if independent[device] else 0
    inputs = declared(session.inputs, configuration.inputs, max_batch_size, "input")
    outputs = declared(session.outputs, configuration.outputs, max_batch_size, "output")
    return Signature(inputs, outputs, max_batch_size)
