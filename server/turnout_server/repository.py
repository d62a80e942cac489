"""The model repository: which models there are, how each one stands, and which version answers a request."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Literal

from turnout_server import configfile
from turnout_server.config import ModelConfiguration
from turnout_server.errors import (
    DeviceLost,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    ServingError,
    Unavailable,
    internal_error,
)
from turnout_server.layout import ModelFiles, find_models
from turnout_server.loading import Loader, ModelVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """How a model stands. Never changed, only replaced whole: who holds one sees a consistent state.

    Attributes:
        state: `settled` means that every version is in `versions` or in `failures`; `evicted`, that it was unloaded to make
            room and comes back with the next request for it.
        versions: those that answer, by number.
        failures: why others don't, by number; None stands for the model as a whole.
        fingerprint: of the files that it was loaded from.
    """

    name: str
    state: Literal["unloaded", "evicted", "loading", "settled"] = "unloaded"
    versions: Mapping[int, ModelVersion] = field(default_factory=dict)
    failures: Mapping[int | None, str] = field(default_factory=dict)
    fingerprint: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class IndexEntry:
    """A line of the repository's index; `state` is READY, LOADING, UNAVAILABLE, or empty for a model never loaded."""

    name: str
    version: str
    state: str
    reason: str = ""


class Repository:
    """The models below one directory.

    Methods that load or unload belong to one control thread; the others may be called from any thread meanwhile.

    Args:
        model_name: what the one bare model is called that `root` holds; empty for a directory of models.
        changed: called on the control thread after every change of a model's state.
        loaded: told of every version that was loaded.
        settling: called on the control thread once all are there, before they count as settled.
        max_loaded: how many models may be loaded at once; 0 for any number. One more takes the place of the one that was
            asked for least recently.
        wanted: told the name of an evicted model that was asked for.
    """

    def __init__(
        self,
        root: Path,
        loader: Loader,
        model_name: str = "",
        changed: Callable[[], None] = lambda: None,
        loaded: Callable[[ModelVersion], None] = lambda version: None,
        settling: Callable[[], None] = lambda: None,
        max_loaded: int = 0,
        wanted: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._root = root
        self._loader = loader
        self._model_name = model_name
        self._changed = changed
        self._loaded = loaded
        self._settling = settling
        self._max_loaded = max_loaded
        self._wanted = wanted
        self._moments = count(1)
        self._asked_for: dict[str, int] = {}  # when each model was asked for last, by `_moments`
        self._models = {name: Model(name) for name in find_models(root, model_name)}
        self.settled = False

    def start(self, names: set[str] | None = None) -> None:
        """Loads the models named, or all; one that fails is reported and harms no other. Then the repository has settled."""
        chosen = sorted(self._models.keys() if names is None else names)
        for name in chosen[self._max_loaded :] if self._max_loaded else ():
            self._replace(Model(name, "evicted"))
        for name in chosen[: self._max_loaded or None]:
            self._load_or_report(name)
        self._settling()
        self.settled = True
        self._changed()

    def load(self, name: str, configuration: str = "") -> None:
        """Loads or reloads a model; the version it had goes on answering until the new one can.

        Args:
            configuration: JSON that replaces config.pbtxt; empty for the file.

        Raises:
            InvalidRequest: it can't be loaded. What answered before still does.
            InternalError: there is no such model; Triton's status, which its clients expect.
        """
        files = find_models(self._root, self._model_name).get(name)
        if files is None:
            raise InternalError(f"failed to load '{name}', failed to poll from model repository")
        before = self._models.get(name, Model(name))
        if not before.versions:
            self._make_room()
            self._replace(Model(name, "loading"))
        loaded = self._load(name, files, configuration)
        keeps = bool(loaded.failures and before.versions)
        self._replace(replace(before, fingerprint=loaded.fingerprint) if keeps else loaded)
        if loaded.failures:
            raise InvalidRequest(f"load failed for model '{name}': {_reasons(loaded)}")

    def reopen(self) -> None:
        """Loads again the models that lack a device because it was lost while they were being loaded."""
        for name, model in list(self._models.items()):
            problems = [problem for version in model.versions.values() for problem in version.problems.values()]
            if any(isinstance(problem, DeviceLost) for problem in problems):
                self._load_or_report(name)

    def unload(self, name: str) -> None:
        """Answers no more requests for a model; those in flight finish.

        Raises:
            InvalidRequest: there is no such model.
        """
        if name not in self._models:
            raise InvalidRequest(f"failed to unload '{name}': it is not in the model repository")
        self._replace(Model(name))
        logger.info("model %s is unloaded", name)

    def poll(self) -> None:
        """Loads what is new or has changed on disk, and unloads what is gone."""
        found = find_models(self._root, self._model_name)
        for name in [name for name, model in self._models.items() if name not in found]:
            self.unload(name)
            del self._models[name]
        for name, files in found.items():
            if self._models.get(name, Model(name)).fingerprint != files.fingerprint():
                self._load_or_report(name)

    def find(self, name: str, version: str = "") -> ModelVersion:
        """The version that answers a request.

        Args:
            version: decimal text; empty for the highest that is ready.

        Raises:
            InvalidRequest: the version is no positive number.
            NotFound, Unavailable, FailedPrecondition: no such model or version; still loading; broken.
        """
        model = self._models.get(name)
        if model is None or model.state == "unloaded":
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        self._asked_for[name] = next(self._moments)
        if model.state == "evicted":
            self._wanted(name)
            raise Unavailable(f"model '{name}' is not at ready state: it is being loaded again", pushback_ms=1000)
        number = _version_number(version) if version else max(model.versions, default=None)
        if number is not None and number in model.versions:
            return model.versions[number]
        raise _absence(model, number)

    def knows(self, name: str) -> bool:
        """Whether the repository has a model of this name, in whatever state."""
        return name in self._models

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether the model can answer; False also for one that isn't there."""
        try:
            if self._models[name].state != "evicted":  # asking how it stands doesn't bring it back
                self.find(name, version)
                return True
        except (KeyError, NotFound, Unavailable, FailedPrecondition):
            return False
        return False

    def ready(self, name: str = "") -> list[ModelVersion]:
        """The versions that can answer, of one model or of all, ascending."""
        models = [model for model in list(self._models.values()) if name in ("", model.name)]
        return [model.versions[number] for model in models for number in sorted(model.versions)]

    def index(self) -> list[IndexEntry]:
        """How every version of every model stands."""
        return [entry for model in list(self._models.values()) for entry in _index_of(model)]

    def _load_or_report(self, name: str) -> None:
        """Loads a model; one that fails is reported and harms no other."""
        try:
            self.load(name)
        except ServingError as error:
            logger.error("model %s failed to load: %s", name, error)

    def _make_room(self) -> None:
        """Unloads those asked for least recently, so that one more model may be loaded; requests in flight finish."""
        loaded = [name for name, model in self._models.items() if model.versions]
        loaded.sort(key=lambda name: self._asked_for.get(name, 0))
        for name in loaded[: len(loaded) - self._max_loaded + 1] if self._max_loaded else ():
            self._replace(Model(name, "evicted"))
            logger.info("model %s is unloaded to make room", name)

    def _replace(self, model: Model) -> None:
        self._models[model.name] = model
        self._changed()

    def _load(self, name: str, files: ModelFiles, json: str) -> Model:
        versions: dict[int, ModelVersion] = {}
        failures: dict[int | None, str] = {}
        fingerprint = files.fingerprint()
        try:
            configuration = _configuration(name, files, json)
            for number in _chosen(configuration, files):
                try:
                    versions[number] = self._loader.load(files.versions[number], number, configuration)
                except (ServingError, OSError) as error:
                    failures[number] = _told(error)
        except (ServingError, OSError) as error:
            failures[None] = _told(error)
        except Exception:  # what we didn't foresee in one model must not keep the others from loading
            failures[None] = str(hidden := internal_error())
            logger.exception("model %s: %s", name, hidden)
        for number, version in versions.items():
            self._loaded(version)
            logger.info("model %s version %d is ready on %s", name, number, ", ".join(version.sessions))
        return Model(name, "settled", versions, failures, fingerprint)


def _told(error: ServingError | OSError) -> str:
    """What clients may know of an error: names of files, not where they lie."""
    return f"{Path(error.filename or '').name}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _configuration(name: str, files: ModelFiles, json: str) -> ModelConfiguration:
    configuration = configfile.parse_json(json, name, files.directory) if json else configfile.read(files.directory, name)
    if configuration.notes:
        logger.warning("model %s: these settings have no effect here: %s", name, ", ".join(configuration.notes))
    return configuration


def _chosen(configuration: ModelConfiguration, files: ModelFiles) -> list[int]:
    numbers = configuration.select(list(files.versions))
    if not numbers:
        raise FailedPrecondition("there is no version to serve: expected a directory such as '1' with a model.onnx")
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
        number = int(version)
    except ValueError:
        raise InvalidRequest(
            f"failed to get model version from specified version string '{version}' (details: not a number), "
            f"version should be an integral value > 0"
        ) from None
    if number <= 0:
        raise InvalidRequest(f"invalid model version specified '{version}' , version should be an integral value > 0")
    return number
