"""Has devices and models tried: by the server's own means, so that what works here works there."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from turnout_server.cli.doctor.checkup import ModelOnDevice, Tried
from turnout_server.core.errors import ServingError
from turnout_server.devices import engines
from turnout_server.devices.device import Device
from turnout_server.devices.engines import Engine
from turnout_server.models.loading import Loader, ModelVersion
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.repository import Repository


class Trial:
    """Devices that were started; `stop` ends them.

    Args:
        candidates: each device, and whether the settings declare it.

    Attributes:
        tried: what came of each.
    """

    def __init__(self, candidates: Iterable[tuple[Device, bool]]) -> None:
        self._working: dict[str, Engine] = {}
        self.tried = tuple(self._try(device, declared) for device, declared in candidates)

    def models(self, root: Path, model_name: str) -> tuple[ModelOnDevice, ...]:
        """Every model of a repository on every device that works.

        Raises:
            FailedPrecondition: the directory isn't a repository.
        """
        repository = Repository(root, Loader(self._working, ProfileStore(None)), model_name)
        repository.start()
        rows = [row for version in repository.ready() for row in _rows(version, self._working)]
        failed = [entry for entry in repository.index() if entry.state == "UNAVAILABLE"]
        rows += [ModelOnDevice(entry.name, entry.version, "", entry.reason) for entry in failed]
        return tuple(sorted(rows, key=lambda row: (row.model, row.version)))

    def stop(self) -> None:
        for engine in self._working.values():
            engine.stop()

    def _try(self, device: Device, declared: bool) -> Tried:
        started_s = time.monotonic()
        problem = ""
        try:
            self._working[device.name] = engines.start(device, lambda: None)
        except ServingError as error:
            problem = str(error)
        return Tried(device, problem, time.monotonic() - started_s, declared)


def _rows(version: ModelVersion, working: Mapping[str, Engine]) -> Iterator[ModelOnDevice]:
    for name, engine in working.items():
        if name in version.deployments:
            report = version.deployments[name].report
            yield ModelOnDevice(
                version.name,
                str(version.version),
                name,
                problem="",
                nodes=dict(report.placement),
                load_s=report.load_s,
                parity_error=report.parity.error,
                parity_reference=report.parity.reference,
            )
        else:
            allowed = version.configuration.allows(name, engine.device.kind)
            yield ModelOnDevice(version.name, str(version.version), name, str(version.problems[name]), allowed)
