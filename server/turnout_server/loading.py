"""Turns a version directory into something that answers requests: a session on each device, a signature, a first profile."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from turnout_server.config import DEFAULT_MAX_BATCH_SIZE, ModelConfiguration
from turnout_server.engines import Engine
from turnout_server.errors import FailedPrecondition, ServingError
from turnout_server.profiles import Profile
from turnout_server.sessions import Session
from turnout_server.signatures import Signature, declared
from turnout_server.warmup import measured, rows_are_independent, run_configured

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A loaded version: its sessions by device name, and why it has none on the other devices."""

    name: str
    version: int
    configuration: ModelConfiguration
    signature: Signature
    sessions: Mapping[str, Session]
    problems: Mapping[str, ServingError]
    profiles: Mapping[str, Profile]


class Loader:
    """Opens model versions on the devices of this server."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def load(self, directory: Path, number: int, configuration: ModelConfiguration) -> ModelVersion:
        """Opens a version on every device that the model may use.

        Args:
            directory: the version's, with its ONNX files.

        Raises:
            FailedPrecondition: it runs on none of them, or isn't what its configuration says.
        """
        sessions: dict[str, Session] = {}
        problems: dict[str, ServingError] = {}
        for name, engine in self._engines.items():
            try:
                sessions[name] = self._open(directory, configuration, engine)
            except ServingError as error:
                problems[name] = error
        if not sessions:
            raise FailedPrecondition("; ".join(f"{device}: {problem}" for device, problem in problems.items()))
        for name, problem in problems.items():
            logger.warning("model %s version %d does not run on %s: %s", configuration.name, number, name, problem)
        signature = _signature(configuration, next(iter(sessions.values())))
        for session in sessions.values():
            run_configured(configuration.name, session, signature, configuration.warmups)
        return ModelVersion(
            name=configuration.name,
            version=number,
            configuration=configuration,
            signature=signature,
            sessions=sessions,
            problems=problems,
            profiles={name: measured(session) for name, session in sessions.items()},
        )

    def _open(self, directory: Path, configuration: ModelConfiguration, engine: Engine) -> Session:
        device = engine.device
        if not configuration.allows(device.name, device.kind):
            raise FailedPrecondition(
                f"model '{configuration.name}' is not allowed on device '{device.name}' by its configuration, "
                f"which lists {list(configuration.devices)}"
            )
        file = _checked(directory / configuration.file_for(device.name, device.kind))
        return engine.open(file, configuration.runtime)


def _checked(path: Path) -> Path:
    """`path`, once it is known to be a plain file inside its model's directory."""
    if not path.resolve().is_relative_to(path.parent.parent.resolve()):
        raise FailedPrecondition(f"{path.name} leads out of its model's directory")
    if not path.exists():
        raise FailedPrecondition(f"there is no {path.name} in version directory '{path.parent.name}'")
    if not path.is_file():
        raise FailedPrecondition(f"{path.name} is not a regular file")
    return path


def _signature(configuration: ModelConfiguration, session: Session) -> Signature:
    max_batch_size = configuration.max_batch_size
    if max_batch_size is None:
        max_batch_size = DEFAULT_MAX_BATCH_SIZE if rows_are_independent(session) else 0
    inputs = declared(session.inputs, configuration.inputs, max_batch_size, "input")
    outputs = declared(session.outputs, configuration.outputs, max_batch_size, "output")
    return Signature(inputs, outputs, max_batch_size)
