"""The model repository: its models, the state of each, and the version that answers a request."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

from turnout_server.core.errors import (
    DeviceLost,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    ServingError,
    Unavailable,
    internal_error,
)
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.core.suggestions import did_you_mean
from turnout_server.models import config_pbtxt
from turnout_server.models.files import MODEL_FILE, ModelFiles, find_models, require_own_files, why_empty
from turnout_server.models.loading import Loader
from turnout_server.models.model_version import ModelVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """The state of a model. Never changed, only replaced as a whole, so that every thread sees a consistent state.

    Attributes:
        state: `settled` means that every version is in `versions` or in `failures`; `evicted`, that it was unloaded to make
            room and is loaded again at the next request for it.
        versions: the loaded versions, by number.
        failures: why the others failed to load, by number; None stands for the model as a whole.
        fingerprint: of the files that it was loaded from.
        weight_bytes: the size of its versions' weights; 0 unless it is limited.
    """

    name: str
    state: Literal["unloaded", "evicted", "loading", "settled"] = "unloaded"
    versions: Mapping[int, ModelVersion] = field(default_factory=dict)
    failures: Mapping[int | None, str] = field(default_factory=dict)
    fingerprint: tuple[tuple[str, int, int], ...] = ()
    weight_bytes: int = 0


@dataclass(frozen=True)
class Limits:
    """How much may be loaded at once; 0 for any amount.

    Attributes:
        weight_bytes: of all models together.
    """

    models: int = 0
    weight_bytes: int = 0

    def leave_room(self, loaded: Sequence[Model], weight_bytes: int) -> bool:
        """Whether one more model of this weight may be loaded."""
        weights = sum(model.weight_bytes for model in loaded) + weight_bytes
        return (not self.models or len(loaded) < self.models) and (not self.weight_bytes or weights <= self.weight_bytes)


@dataclass(frozen=True)
class IndexEntry:
    """A line of the repository's index; `state` is READY, LOADING, UNAVAILABLE, or empty for a model never loaded."""

    name: str
    version: str
    state: str
    reason: str = ""


class Observer(Protocol):
    """Receives the events of a repository, on the control thread, except for `wanted`."""

    def changed(self) -> None:
        """The state of a model, or of the repository, has changed."""
        ...

    def loaded(self, version: ModelVersion) -> None:
        """A version was loaded."""
        ...

    def settling(self) -> None:
        """Every model was loaded or failed; the repository settles once this returns."""
        ...

    def wanted(self, name: str) -> None:
        """A request asked for a model that was evicted; called on any thread."""
        ...


class NullObserver:
    """Ignores every event."""

    def changed(self) -> None: ...
    def loaded(self, version: ModelVersion) -> None: ...
    def settling(self) -> None: ...
    def wanted(self, name: str) -> None: ...


class Repository:
    """The models below one directory.

    Methods that load or unload belong to one control thread; the others may be called from any thread meanwhile.

    Args:
        model_name: the name of the single model in `root`; empty for a directory of models.
        limits: how much may be loaded at once; beyond that, the least recently requested models are evicted.
        follow_links: whether the files of models may be links out of their directories.

    Attributes:
        observer: receives every event.
        settled: whether every model was loaded or failed.

    Raises:
        FailedPrecondition: `root` isn't a model repository, or can't be listed.
    """

    def __init__(
        self,
        root: Path,
        loader: Loader,
        model_name: str = "",
        limits: Limits = Limits(),
        *,
        follow_links: bool = False,
    ) -> None:
        self.observer: Observer = NullObserver()
        self.settled = False
        self._root = root
        self._loader = loader
        self._model_name = model_name
        self._limits = limits
        self._follow_links = follow_links
        self._requests = count(1)
        self._last_request: dict[str, int] = {}  # by model: the number of the last request for it
        self._models = {name: Model(name) for name in find_models(root, model_name)}

    def start(self, names: set[str] | None = None) -> None:
        """Loads the named models, or all, after which the repository has settled. A model that fails doesn't affect others."""
        if not self._models:
            logger.warning("the model repository %s has no models: %s", self._root, why_empty(self._root))
        for name in sorted(self._models.keys() if names is None else names):
            self._load_or_report(name, evicts=False)
        self.observer.settling()
        self.settled = True
        self.observer.changed()

    def load(self, name: str, configuration: str = "", *, evicts: bool = True) -> None:
        """Loads or reloads a model; its previous version answers until the new one can.

        Args:
            configuration: JSON that replaces config.pbtxt; empty for the file.
            evicts: whether other models are evicted if there is no room; otherwise the model itself becomes `evicted`.

        Raises:
            InvalidRequest: it can't be loaded; the previous version still answers.
            InternalError: there is no such model; Triton's status, which its clients expect.
        """
        found = find_models(self._root, self._model_name)
        files = found.get(name)
        if files is None:
            meant = did_you_mean(name, found)
            raise InternalError(f"failed to load '{name}', failed to poll from model repository{meant}")
        before = self._models.get(name, Model(name))
        if not before.versions:
            self._replace(Model(name, "loading"))
        loaded = self._load(name, files, configuration, evicts)
        keeps = bool(loaded.failures and before.versions)
        self._replace(replace(before, fingerprint=loaded.fingerprint) if keeps else loaded)
        if loaded.failures:
            raise InvalidRequest(f"load failed for model '{name}': {_reasons(loaded)}")

    def reopen(self) -> None:
        """Reloads the models that lack a device because it was lost while they were being loaded."""
        for name, model in self._models.copy().items():
            reasons = [reason for version in model.versions.values() for reason in version.unavailable.values()]
            if any(isinstance(reason, DeviceLost) for reason in reasons):
                self._load_or_report(name)

    def unload(self, name: str) -> None:
        """Unloads a model; requests in flight finish.

        Raises:
            InvalidRequest: there is no such model.
        """
        if name not in self._models:
            meant = did_you_mean(name, self.names())
            raise InvalidRequest(f"failed to unload '{name}': it is not in the model repository{meant}")
        self._replace(Model(name))
        logger.info("model %s is unloaded", name)

    def poll(self) -> None:
        """Loads models that are new or have changed on disk, and unloads those that are gone."""
        found = find_models(self._root, self._model_name)
        for name in [name for name, model in self._models.items() if name not in found]:
            self.unload(name)
            del self._models[name]
        for name, files in found.items():
            model = self._models.get(name, Model(name))
            if model.state != "evicted" and model.fingerprint != files.fingerprint():
                self._load_or_report(name)

    def find(self, name: str, version: str = "") -> ModelVersion:
        """The version that answers a request.

        Args:
            version: decimal text; empty for the highest that is ready.

        Raises:
            InvalidRequest: the version isn't a positive number.
            NotFound, Unavailable, FailedPrecondition: no such model or version; still loading; broken.
        """
        model = self._models.get(name)
        if model is None or model.state == "unloaded":
            if not self.settled:
                raise Unavailable(f"model '{name}' is not at ready state: models are still being loaded", pushback_ms=1000)
            raise NotFound(f"Request for unknown model: '{name}' is not found{did_you_mean(name, self.names())}")
        self._last_request[name] = next(self._requests)
        if model.state == "evicted":
            self.observer.wanted(name)
            raise Unavailable(f"model '{name}' is not at ready state: it is being loaded again", pushback_ms=1000)
        number = _version_number(version) if version else max(model.versions, default=None)
        if number is not None and number in model.versions:
            return model.versions[number]
        raise _absence(model, number)

    def look_up(self, name: str, version: str = "") -> ModelVersion:
        """Like `find`, for callers that only read the state: an evicted model isn't loaded again."""
        model = self._models.get(name)
        if model is not None and model.state == "evicted":
            raise Unavailable(f"model '{name}' was unloaded to make room; the next request brings it back")
        return self.find(name, version)

    def names(self) -> Iterator[str]:
        """The models that a request may name; another thread may change them meanwhile."""
        return (name for name, model in self._models.copy().items() if model.state != "unloaded")

    def knows(self, name: str) -> bool:
        """Whether the repository has a model of this name, in whatever state."""
        return name in self._models

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether the model can answer; False if it doesn't exist."""
        try:
            self.look_up(name, version)
        except (NotFound, Unavailable, FailedPrecondition):
            return False
        return True

    def ready(self, name: str = "") -> list[ModelVersion]:
        """The versions that can answer, of one model or of all, ascending."""
        models = [model for model in list(self._models.values()) if name in ("", model.name)]
        return [model.versions[number] for model in models for number in sorted(model.versions)]

    def index(self) -> list[IndexEntry]:
        """The state of every version of every model."""
        return [entry for model in list(self._models.values()) for entry in _index_of(model)]

    def _load_or_report(self, name: str, *, evicts: bool = True) -> None:
        """Loads a model, and logs the error if that fails."""
        try:
            self.load(name, evicts=evicts)
        except ServingError as error:
            logger.error("model %s failed to load: %s", name, error)

    def _loaded_models(self) -> list[Model]:
        """The loaded models, the least recently requested first."""
        loaded = [model for model in self._models.values() if model.versions]
        return sorted(loaded, key=lambda model: self._last_request.get(model.name, 0))

    def _weight_of(self, versions: Sequence[Path], configuration: ModelConfiguration) -> int:
        """The size of these versions' weights; 0 unless it is limited, because finding out may read whole files."""
        if not self._limits.weight_bytes:
            return 0
        return sum(self._loader.weight_bytes(version, configuration) for version in versions)

    def _make_room(self, name: str, weight_bytes: int, evicts: bool) -> bool:
        """Evicts the least recently requested models to make room for a model, if `evicts`; returns whether there is room.

        Requests in flight for evicted models finish.

        Raises:
            FailedPrecondition: its weights alone exceed the limit.
        """
        if not self._limits.leave_room([], weight_bytes):
            weight_mb, limit_mb = weight_bytes / 2**20, self._limits.weight_bytes / 2**20
            raise FailedPrecondition(f"its weights take {weight_mb:.1f} MiB, and --max-loaded-mb={limit_mb:.0f} is the limit")
        others = [model for model in self._loaded_models() if model.name != name]
        while evicts and not self._limits.leave_room(others, weight_bytes):
            evicted = others.pop(0)
            self._replace(Model(evicted.name, "evicted"))
            logger.info("model %s is unloaded to make room", evicted.name)
        return self._limits.leave_room(others, weight_bytes)

    def _replace(self, model: Model) -> None:
        self._models[model.name] = model
        self.observer.changed()

    def _load(self, name: str, files: ModelFiles, json: str, evicts: bool) -> Model:
        versions: dict[int, ModelVersion] = {}
        failures: dict[int | None, str] = {}
        fingerprint = files.fingerprint()
        weight_bytes = 0
        try:
            if files.error:
                raise FailedPrecondition(files.error)
            require_own_files(files, follow_links=self._follow_links)
            configuration = _configuration(name, files, json, self._loader.kinds())
            numbers = _versions_to_serve(configuration, files)
            weight_bytes = self._weight_of([files.versions[number] for number in numbers], configuration)
            if not self._make_room(name, weight_bytes, evicts):
                return Model(name, "evicted")
            for number in numbers:
                try:
                    require_own_files(files, number, follow_links=self._follow_links)
                    versions[number] = self._loader.load(files.versions[number], number, configuration)
                except (ServingError, OSError) as error:
                    failures[number] = _public_text(error)
        except (ServingError, OSError) as error:
            failures[None] = _public_text(error)
        except Exception:  # an unexpected error in one model must not keep the others from loading
            failures[None] = str(hidden := internal_error())
            logger.exception("model %s: %s", name, hidden)
        for number, version in versions.items():
            self.observer.loaded(version)
            logger.info("model %s version %d is ready on %s", name, number, ", ".join(version.deployments))
        return Model(name, "settled", versions, failures, fingerprint, weight_bytes)


def _public_text(error: ServingError | OSError) -> str:
    """The text of an error for clients: it names files, but not their directories."""
    return f"{Path(error.filename or '').name}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _configuration(name: str, files: ModelFiles, json: str, kinds: set[str]) -> ModelConfiguration:
    directory = files.directory
    configuration = config_pbtxt.parse_json(json, name, directory, kinds) if json else config_pbtxt.read(directory, name, kinds)
    if files.file:
        configuration = replace(configuration, files={**configuration.files, "": files.file})
    if configuration.notes:
        logger.warning("model %s: these settings have no effect here: %s", name, ", ".join(configuration.notes))
    return configuration


def _versions_to_serve(configuration: ModelConfiguration, files: ModelFiles) -> list[int]:
    numbers = configuration.select(list(files.versions))
    if not numbers:
        nearly = files.nearly_versions
        instead = f", and there is '{nearly[0]}'; a version is a whole number from 1 on" if nearly else ""
        raise FailedPrecondition(f"there is no version to serve: expected a directory such as '1' with a {MODEL_FILE}{instead}")
    return numbers


def _index_of(model: Model) -> Iterator[IndexEntry]:
    if model.state == "unloaded":
        yield IndexEntry(model.name, "", "")
    elif model.state == "evicted":
        yield IndexEntry(model.name, "", "UNAVAILABLE", "unloaded to make room; the next request brings it back")
    elif model.state == "loading":
        yield IndexEntry(model.name, "", "LOADING")
    for number in sorted(model.versions):
        yield IndexEntry(model.name, str(number), "READY")
    for failed, reason in model.failures.items():
        yield IndexEntry(model.name, "" if failed is None else str(failed), "UNAVAILABLE", reason)


def _reasons(model: Model) -> str:
    return "; ".join(f"version {number}: {why}" if number else why for number, why in model.failures.items())


def _absence(model: Model, number: int | None) -> ServingError:
    """Why no version of `model` answers a request for `number`, or for any."""
    if model.state == "loading":
        return Unavailable(f"model '{model.name}' is not at ready state: it is being loaded", pushback_ms=1000)
    if number is None or None in model.failures:
        return FailedPrecondition(f"model '{model.name}' could not be loaded: {_reasons(model)}")
    if number in model.failures:
        return FailedPrecondition(f"model '{model.name}' version {number} could not be loaded: {model.failures[number]}")
    return NotFound(f"Request for unknown model: '{model.name}' version {number} is not found")


def _version_number(version: str) -> int:
    try:
        number = int(version if version.isascii() and version.removeprefix("-").isdigit() else "")
    except ValueError:  # also for numbers of thousands of digits
        raise InvalidRequest(
            f"failed to get model version from specified version string '{version}' (details: not a number), "
            f"version should be an integral value > 0"
        ) from None
    if number <= 0:
        raise InvalidRequest(f"invalid model version specified '{version}' , version should be an integral value > 0")
    return number
