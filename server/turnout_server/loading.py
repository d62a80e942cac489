"""Turns a version directory into something that answers requests: a session on each device, a signature, a first profile."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from turnout_server.config import DEFAULT_MAX_BATCH_SIZE, ModelConfiguration
from turnout_server.devices import Device
from turnout_server.errors import FailedPrecondition, ServingError
from turnout_server.profiles import Profile
from turnout_server.sessions import Session
from turnout_server.signatures import Signature
from turnout_server.warmup import measured, rows_are_independent

logger = logging.getLogger(__name__)

#: Makes a session of an ONNX file on a device, or raises a ServingError.
OpenSession = Callable[[Path, Device], Session]


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

    def __init__(self, devices: tuple[Device, ...], open_session: OpenSession) -> None:
        self._devices = devices
        self._open_session = open_session

    def load(self, directory: Path, configuration: ModelConfiguration) -> ModelVersion:
        """Opens `directory`, a version's, on every device that the model may use.

        Raises:
            FailedPrecondition: it runs on none of them, or isn't what its configuration says.
        """
        sessions: dict[str, Session] = {}
        problems: dict[str, ServingError] = {}
        for device in self._devices:
            try:
                sessions[device.name] = self._open(directory, configuration, device)
            except ServingError as error:
                problems[device.name] = error
        if not sessions:
            raise FailedPrecondition("; ".join(f"{device}: {error}" for device, error in problems.items()))
        for name, problem in problems.items():
            logger.warning("model %s version %s does not run on %s: %s", configuration.name, directory.name, name, problem)
        return ModelVersion(
            name=configuration.name,
            version=int(directory.name),
            configuration=configuration,
            signature=_signature(configuration, next(iter(sessions.values()))),
            sessions=sessions,
            problems=problems,
            profiles={name: measured(session) for name, session in sessions.items()},
        )

    def _open(self, directory: Path, configuration: ModelConfiguration, device: Device) -> Session:
        if not configuration.allows(device.name, device.kind):
            raise FailedPrecondition(
                f"model '{configuration.name}' is not allowed on device '{device.name}' by its configuration, "
                f"which lists {list(configuration.devices)}"
            )
        return self._open_session(_checked(directory / configuration.file_for(device.name, device.kind)), device)


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
    for spec in (*session.inputs, *session.outputs) if max_batch_size else ():
        if spec.shape[:1] != (-1,):
            raise FailedPrecondition(
                f"max_batch_size is {max_batch_size}, but the first dimension of '{spec.name}' is not free: its shape is "
                f"{list(spec.shape)}; set max_batch_size to 0 or export the model with a dynamic batch dimension"
            )
    return Signature(session.inputs, session.outputs, max_batch_size)
