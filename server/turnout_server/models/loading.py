"""Turns a version directory into something that answers requests: a session on each device, a signature, a first profile."""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
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
from turnout_server.devices.weight_files import WeightFiles
from turnout_server.models import graph_inputs, manifest
from turnout_server.models.deployments import Deployment, DeviceReport
from turnout_server.models.file_kinds import unlike_a_model
from turnout_server.models.files import located, model_path, precision_of
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.profile_store import ProfileKey, ProfileStore, sha256_of
from turnout_server.models.trial_inputs import example_of
from turnout_server.models.tuning import ModelFile, Tuned, for_batches, with_fitting_threads
from turnout_server.models.verification import DOUBTFUL, Parity, Verifiable, golden, verify
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
        load = _Load(self._engines, self._store, directory, number, configuration)
        endless = any(load.hazards(name) for name in self._engines)
        with limited(time.monotonic() + RUNS_S) if endless else nullcontext():
            version = load.version()
        return replace(version, variants=self._variants(directory, version)) if configuration.variants else version

    def kinds(self) -> set[str]:
        """The kinds of the devices."""
        return {engine.device.kind for engine in self._engines.values()}

    def weight_bytes(self, directory: Path, configuration: ModelConfiguration) -> int:
        """What a version's weights take on all the devices that it may use."""
        names = [
            file
            for device in self._allowed(configuration)
            for file in (
                configuration.file_for(device.name, device.kind),
                *configuration.variants_for(device.name, device.kind),
            )
        ]
        files = [located(directory, name) for name in names]
        sizes = {file: WeightFiles.of(file).bytes for file in set(files)}
        return sum(sizes[file] for file in files)

    def _variants(self, directory: Path, version: ModelVersion) -> dict[str, ModelVersion]:
        """What becomes of a version's files in other precisions, by precision, on devices whose own file has another one."""
        configuration, loaded = version.configuration, {}
        for precision, files in self._variant_files(directory, configuration).items():
            asked = replace(configuration, files={"": next(iter(files.values())), **files}, devices=(), variants={})
            loader = Loader({device: self._engines[device] for device in files}, self._store)
            try:
                loaded[precision] = loader.load(directory, version.version, asked)
                if not loaded[precision].signature.declares_the_same(version.signature):
                    raise FailedPrecondition(f"its inputs and outputs aren't those of {configuration.files['']}")
            except FailedPrecondition as error:
                name, number = version.name, version.version
                logger.warning("model %s version %d is not served in %s: %s", name, number, precision, error)
                loaded[precision] = replace(version, deployments={}, unavailable=dict.fromkeys(files, error))
        return loaded

    def _variant_files(self, directory: Path, configuration: ModelConfiguration) -> dict[str, dict[str, str]]:
        """For each precision that isn't a device's usual one, its file by device."""
        files: dict[str, dict[str, str]] = {}
        for device in self._allowed(configuration):
            own = precision_of(directory, configuration.file_for(device.name, device.kind))
            for file in configuration.variants_for(device.name, device.kind):
                if (precision := precision_of(directory, file)) != own:
                    files.setdefault(precision, {}).setdefault(device.name, file)
        return files

    def _allowed(self, configuration: ModelConfiguration) -> list[Device]:
        """The devices that a model may use."""
        devices = [engine.device for engine in self._engines.values()]
        return [device for device in devices if configuration.allows(device.name, device.kind)]


class _Load:
    """One load of a version; see Loader.load.

    Raises:
        FailedPrecondition: golden.npz is there and broken.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        store: ProfileStore,
        directory: Path,
        number: int,
        configuration: ModelConfiguration,
    ) -> None:
        self._engines = engines
        self._devices = {name: engine.device for name, engine in engines.items()}
        self._store = store
        self._directory = directory
        self._number = number
        self._configuration = configuration
        self._manifest = manifest.read(directory)
        self._samples = golden(directory)
        self._example = example_of([sample.inputs for sample in self._samples or ()])
        self._model_files: dict[str, ModelFile] = {}
        self._unavailable: dict[str, ServingError] = {}

    def version(self) -> ModelVersion:
        """The loaded version."""
        configuration = self._configuration
        sessions, load_s = self._open_all()
        self._require(sessions)
        parities = self._verify(sessions)
        self._require(sessions)
        independent = self._independent(sessions)
        signature = self._manifest.limit(self._signature(sessions, independent))
        batchable = _batchable(configuration, signature, independent)
        for device, reason in self._unavailable.items():
            logger.warning("model %s version %d does not run on %s: %s", configuration.name, self._number, device, reason)
        tuned = {
            device: self._tuned(device, sessions.pop(device), signature, batchable.get(device, False))
            for device in list(sessions)
        }
        notes = {device: (*result.notes, *self._guarded(device)) for device, result in tuned.items()}
        for device, result in tuned.items():
            for note in notes[device]:
                logger.info("model %s version %d on %s: %s", configuration.name, self._number, device, note)
            run_configured(configuration.name, result.session, signature, configuration.warmups)
        keys = self._profile_keys(tuned)
        deployments = {
            name: Deployment(
                key=(configuration.name, str(self._number), name),
                session=result.session,
                profile=self._profile(keys.get(name), result.session),
                max_rows=result.max_rows,
                batchable=batchable.get(name, False),
                queue=configuration.queue,
                instances=configuration.instances_on(name, self._devices[name].kind),
                weight=configuration.weight,
                target_us=configuration.latency_target_us,
                precision=self._precision(name),
                profile_key=keys.get(name),
                hazards=self.hazards(name),
                narrowed=openvino.narrowed(self._devices[name], result.session.inputs),
                reduces=openvino.reduces(self._devices[name], self._path(name)),
                file=self._model_files[name],
                cores=self._cores(name),
                report=DeviceReport(load_s[name], result.session.placement, parities[name], notes[name]),
            )
            for name, result in tuned.items()
        }
        return ModelVersion(configuration.name, self._number, configuration, signature, deployments, self._unavailable)

    def hazards(self, device: str) -> tuple[str, ...]:
        """What a value could do in the file that a device runs."""
        return hazards(self._path(device))

    def _cores(self, device: str) -> int:
        """How many cores may have a run each: none where the configuration limits or arranges runs, or they need a process."""
        configuration, place = self._configuration, self._devices[device]
        arranged = (
            configuration.runtime.intra_op_threads is not None
            or configuration.instances_on(device, place.kind)
            or configuration.queue.preferred_rows
            or configuration.queue.max_delay_us
        )
        return place.threads if place.per_core and not arranged and not self.hazards(device) else 0

    def _file(self, device: str) -> str:
        """The name of the file that a device runs."""
        return self._configuration.file_for(device, self._devices[device].kind)

    def _path(self, device: str) -> Path:
        return located(self._directory, self._file(device))

    def _precision(self, device: str) -> str:
        return precision_of(self._directory, self._file(device))

    def _guarded(self, device: str) -> tuple[str, ...]:
        """What to say of a model's hazards: what they are, and whether the server is safe from them."""
        if not (dangers := self.hazards(device)):
            return ()
        place = self._devices[device]
        safe = place.isolated or (place.guarded and why_no_isolation() is None)
        return (f"{'' if safe else 'NOT '}in a process of its own: {'; '.join(dangers[:MAX_DANGERS])}",)

    def _require(self, sessions: Mapping[str, Session]) -> None:
        """Raises FailedPrecondition if there is no session."""
        if not sessions:
            raise FailedPrecondition("; ".join(f"{device}: {reason}" for device, reason in self._unavailable.items()))

    def _open_all(self) -> tuple[dict[str, Session], dict[str, float]]:
        """Sessions, and the seconds each took to open."""
        sessions: dict[str, Session] = {}
        load_s: dict[str, float] = {}
        for device, engine in self._engines.items():
            started_s = time.monotonic()
            try:
                sessions[device] = self._open(engine)
            except ServingError as error:
                self._unavailable[device] = error
            load_s[device] = time.monotonic() - started_s
        return sessions, load_s

    def _open(self, engine: Engine) -> Session:
        device, configuration = engine.device, self._configuration
        if not configuration.allows(device.name, device.kind):
            raise FailedPrecondition(
                f"model '{configuration.name}' is not allowed on device '{device.name}' by its configuration, "
                f"which lists {list(configuration.devices)}"
            )
        model = self._model_files[device.name] = self._model_file(device.name)
        _require_room(model.weights, device)
        engine.await_ready(RESTART_S)  # an earlier model may have ended its process
        try:
            self._model_files[device.name], session = with_fitting_threads(model)
        except FailedPrecondition as error:
            raise FailedPrecondition(unlike_a_model(model.weights.model) or str(error)) from None
        return session

    def _model_file(self, device: str) -> ModelFile:
        """The file of a model on a device. Where the graph states no rank, the configuration's dimensions count.

        Raises:
            FailedPrecondition: the file isn't there, or nothing says what shape an input has.
        """
        configuration, path = self._configuration, model_path(self._directory, self._file(device))
        weights = WeightFiles.of(path)
        by_name = {config.name: config for config in (*configuration.inputs, *configuration.outputs)}
        graph = graph_inputs.read(path)
        if unknown := sorted(graph.unranked_inputs - by_name.keys()):
            raise FailedPrecondition(
                f"the ONNX graph states no shape for input '{unknown[0]}': give its dims in an input section of config.pbtxt"
            )
        batch = configuration.max_batch_size or 0
        unranked = (graph.unranked_inputs | graph.unranked_outputs) & by_name.keys()
        shapes = {name: graph_shape_of(by_name[name], batch) for name in sorted(unranked)}
        return ModelFile(self._engines[device], weights, replace(configuration.runtime, shapes=shapes), self._example)

    def _verify(self, sessions: dict[str, Session]) -> dict[str, Parity]:
        """How far each device is off; those that are too far lose their session and get a problem."""
        parities: dict[str, Parity] = {}
        devices = {name: Verifiable(session, self._devices[name].provider) for name, session in sessions.items()}
        tolerances = {
            name: max(self._configuration.tolerance, self._manifest.tolerances.get(self._file(name), 0.0)) for name in sessions
        }
        unverified = self._configuration.serves_unverified
        for device in () if unverified or self._samples else tuple(sessions):
            if doubt := openvino.doubt(self._devices[device], self._path(device)):
                self._unavailable[device] = FailedPrecondition(DOUBTFUL.format(device=device, doubt=doubt))
                del sessions[device], devices[device]
        for device, result in verify(devices, self._samples, tolerances, unverified=unverified).items():
            if isinstance(result, Parity):
                parities[device] = result
            else:
                self._unavailable[device] = result
                del sessions[device]
        return parities

    def _independent(self, sessions: Mapping[str, Session]) -> dict[str, bool]:
        """Whether rows were shown not to depend on each other, by device; empty where nothing depends on it."""
        configuration = self._configuration
        if configuration.max_batch_size == 0 or (configuration.max_batch_size and not configuration.batches):
            return {}
        return {
            name: rows_are_independent(session, tolerance_of(self._precision(name), self._devices[name]), self._example)
            for name, session in sessions.items()
        }

    def _signature(self, sessions: Mapping[str, Session], independent: Mapping[str, bool]) -> Signature:
        """What the model takes and gives, as its configuration shows it."""
        configuration = self._configuration
        max_batch_size = configuration.max_batch_size
        if max_batch_size is None:
            limits = [default_max_batch(self._devices[device]) for device, shown in independent.items() if shown]
            max_batch_size = max(limits, default=0)
        name, session = next(iter(sessions.items()))
        defaults = graph_inputs.read(model_path(self._directory, self._file(name))).defaults
        inputs = declared(session.inputs, configuration.inputs, max_batch_size, "input", defaults)
        outputs = declared(session.outputs, configuration.outputs, max_batch_size, "output")
        return Signature(inputs, outputs, max_batch_size)

    def _tuned(self, device: str, session: Session, signature: Signature, batchable: bool) -> Tuned:
        """The session, or a better one for the batches that the model may have on a device."""
        model, place = self._model_files[device], self._devices[device]
        if not batchable:
            return Tuned(session, model.options, max_rows=1)
        tolerance = tolerance_of(self._precision(device), place)
        return for_batches(model, session, _row_limit(self._configuration, signature, place), tolerance)

    def _profile_keys(self, tuned: Mapping[str, Tuned]) -> dict[str, ProfileKey]:
        """What the profile on each device is true of; nothing where profiles aren't kept, because hashing reads whole files."""
        if not self._store.keeps:
            return {}
        files = {name: self._file(name) for name in tuned}
        hashes = {file: sha256_of(model_path(self._directory, file)) for file in set(files.values())}
        return {
            name: ProfileKey(
                model_sha256=hashes[file],
                file=file,
                device=fingerprint(self._devices[name]),
                runtime=runtime_version(),
                options=tuned[name].fingerprint(),
            )
            for name, file in files.items()
        }

    def _profile(self, key: ProfileKey | None, session: Session) -> Profile:
        """The one that an earlier start kept, or a first measurement."""
        return (self._store.load(key) if key else None) or measured(session, self._example)


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


def _require_room(weights: WeightFiles, device: Device) -> None:
    """Raises Overloaded where a GPU's memory limit is too small for the weights, which ONNX Runtime allocates outside of it."""
    if not device.is_cuda or not device.memory_limit_mb:
        return
    weights_mb = weights.bytes / 2**20
    if weights_mb > device.memory_limit_mb:
        raise Overloaded(
            f"a model of {weights_mb:.1f} MiB does not fit into the memory of device '{device.name}', "
            f"which may take {device.memory_limit_mb} MiB"
        )
