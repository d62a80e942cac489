"""Tries devices and models with the server's own code, so that what works here works in the server."""

import time
from collections.abc import Iterable, Iterator, Mapping

from turnout_server.assembly import build
from turnout_server.cli.doctor.checkup import ModelOnDevice, Tried
from turnout_server.core.errors import ServingError
from turnout_server.devices import engines
from turnout_server.devices.device import Device
from turnout_server.devices.engines import Engine, Engines
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.settings import Settings


class Trial:
    """Devices that were started; `stop` ends them.

    Args:
        candidates: each device, and whether the settings declare it.

    Attributes:
        tried: the result for each.
    """

    def __init__(self, candidates: Iterable[tuple[Device, bool]]) -> None:
        self._working: dict[str, Engine] = {}
        self.tried = tuple(self._try(device, declared) for device, declared in candidates)

    def models(self, settings: Settings) -> tuple[ModelOnDevice, ...]:
        """Every model of a repository on every device that works.

        Raises:
            FailedPrecondition: the directory isn't a repository.
        """
        quiet = settings.model_copy(update={"ready_when": "any", "default_device": "auto", "profile_budget_s": 0.0})
        core = build(quiet, Engines(self._working, {}))
        try:
            core.repository.start()
            rows = [row for version in core.repository.ready() for row in _rows(version, self._working)]
            failed = [entry for entry in core.repository.index() if entry.state == "UNAVAILABLE"]
            rows += [ModelOnDevice(entry.name, entry.version, "", entry.reason) for entry in failed]
        finally:
            core.stop(timeout_s=0)
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
    """The version on each device, as it is and in other precisions."""
    for precision, each in {"": version, **version.variants}.items():
        for name, engine in working.items():
            if name in each.deployments:
                yield _working(each.deployments[name], precision)
            elif name in each.unavailable:
                allowed = version.configuration.allows(name, engine.device.kind)
                problem = str(each.unavailable[name])
                yield ModelOnDevice(version.name, str(version.version), name, problem, allowed, precision=precision)


def _working(deployment: Deployment, precision: str) -> ModelOnDevice:
    report = deployment.report
    return ModelOnDevice(
        *deployment.key,
        problem="",
        nodes=dict(report.placement),
        load_s=report.load_s,
        parity_error=report.parity.error,
        parity_reference=report.parity.reference,
        hazards=deployment.hazards,
        precision=precision,
    )
