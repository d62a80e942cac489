"""The model repository: which models there are, how each one stands, and which version answers a request.

Layout: `<root>/<model>/config.pbtxt` (optional) and `<root>/<model>/<version>/model.onnx`.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from turnout_server import config
from turnout_server.errors import FailedPrecondition, InvalidRequest, NotFound, ServingError, Unavailable
from turnout_server.loading import Loader, ModelVersion

logger = logging.getLogger(__name__)


@dataclass
class Model:
    """A model of the repository.

    Attributes:
        versions: those that answer, by number.
        failures: why others don't, by number; None stands for the model as a whole.
        settled: every version is in one of the two.
    """

    name: str
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    failures: dict[int | None, str] = field(default_factory=dict)
    settled: bool = False


@dataclass(frozen=True)
class IndexEntry:
    """A line of the repository's index; `state` is READY, LOADING or UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str = ""


class Repository:
    """The models below one directory.

    `load` belongs to one control thread; every other method may be called from any thread meanwhile.

    Args:
        changed: called on the control thread after every change of a model's state.
    """

    def __init__(self, root: Path, loader: Loader, changed: Callable[[], None] = lambda: None) -> None:
        self._root = root
        self._loader = loader
        names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        self._models = {name: Model(name) for name in names}
        self._changed = changed

    def load(self) -> None:
        """Loads every model; one that fails is reported and harms no other."""
        for model in self._models.values():
            self._load(model)
            self._changed()

    def find(self, name: str, version: str = "") -> ModelVersion:
        """The version that answers a request.

        Args:
            version: decimal text; empty for the highest that is ready.

        Raises:
            InvalidRequest: the version is no positive number.
            NotFound, Unavailable, FailedPrecondition: no such model or version; still loading; broken.
        """
        model = self._model(name)
        number = _version_number(version) if version else max(model.versions, default=None)
        if number in model.versions:
            return model.versions[number]
        raise _absence(model, number)

    def knows(self, name: str) -> bool:
        """Whether the repository has a model of this name, in whatever state."""
        return name in self._models

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether the model can answer; False also for one that isn't there."""
        try:
            self.find(name, version)
        except (NotFound, Unavailable, FailedPrecondition):
            return False
        return True

    def ready_versions(self, name: str) -> list[int]:
        """The versions of a model that can answer, ascending."""
        return sorted(self._model(name).versions)

    def settled(self) -> bool:
        """Whether every model is ready or has failed by name."""
        return all(model.settled for model in self._models.values())

    def index(self) -> list[IndexEntry]:
        """How every version of every model stands."""
        return [entry for model in self._models.values() for entry in _index_of(model)]

    def _model(self, name: str) -> Model:
        try:
            return self._models[name]
        except KeyError:
            raise NotFound(f"Request for unknown model: '{name}' is not found") from None

    def _load(self, model: Model) -> None:
        directory = self._root / model.name
        try:
            configuration = config.read(directory / "config.pbtxt", model.name)
            numbers = configuration.select(_version_numbers(directory))
            if not numbers:
                raise FailedPrecondition("there is no version to serve: expected a directory such as '1' with a model.onnx")
            for number in numbers:
                self._load_version(model, configuration, number)
        except (ServingError, OSError) as error:
            self._failed(model, None, error)
        model.settled = True

    def _load_version(self, model: Model, configuration: config.ModelConfiguration, number: int) -> None:
        try:
            version = self._loader.load(self._root / model.name / str(number), configuration)
        except (ServingError, OSError) as error:
            self._failed(model, number, error)
            return
        model.versions[number] = version
        logger.info("model %s version %d is ready on %s", model.name, number, ", ".join(version.sessions))

    def _failed(self, model: Model, number: int | None, error: Exception) -> None:
        model.failures[number] = str(error)
        logger.error("model %s%s failed to load: %s", model.name, f" version {number}" if number else "", error)


def _index_of(model: Model) -> Iterator[IndexEntry]:
    if not model.settled:
        yield IndexEntry(model.name, "", "LOADING")
        return
    for number in sorted(model.versions):
        yield IndexEntry(model.name, str(number), "READY")
    for failed, reason in model.failures.items():
        yield IndexEntry(model.name, "" if failed is None else str(failed), "UNAVAILABLE", reason)


def _absence(model: Model, number: int | None) -> ServingError:
    """Why no version of `model` answers a request for `number`, or for any."""
    if not model.settled:
        return Unavailable(f"model '{model.name}' is not at ready state: it is being loaded", pushback_ms=1000)
    if number is None:
        reason = "; ".join(f"version {n}: {why}" if n else why for n, why in model.failures.items())
        return FailedPrecondition(f"model '{model.name}' could not be loaded: {reason}")
    if number in model.failures:
        return FailedPrecondition(f"model '{model.name}' version {number} could not be loaded: {model.failures[number]}")
    return NotFound(f"Request for unknown model: '{model.name}' version {number} is not found")


def _version_numbers(directory: Path) -> list[int]:
    """A model's versions: directories named by a positive decimal number without leading zeros."""
    names = [path.name for path in directory.iterdir() if path.is_dir()]
    return [int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0")]


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
