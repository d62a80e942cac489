"""The doctor's results: the devices and models that were tried, and the findings."""

from dataclasses import dataclass, field
from typing import Literal

from turnout_server.cli.doctor.facts import Facts
from turnout_server.devices.device import Device

Severity = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One result of the diagnosis.

    Attributes:
        severity: `problem` if something that should work doesn't; `warning` if it may not.
        code: identifies the finding, for scripts.
        fix: the command or the setting that helps; empty if nothing is wrong.
    """

    severity: Severity
    code: str
    what: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Tried:
    """A device and its test run.

    Attributes:
        problem: why the run failed; empty if it didn't.
        start_s: seconds that the run took, including the start of the device process.
        declared: whether the settings declare the device.
    """

    device: Device
    problem: str
    start_s: float
    declared: bool = False


@dataclass(frozen=True)
class ModelOnDevice:
    """A model version on a device; `device` is empty if the version runs nowhere.

    Attributes:
        problem: why it doesn't run there; empty if it does.
        allowed: whether its configuration lets it run there.
        nodes: how many of its graph's nodes each provider runs.
        load_s: seconds it took to open.
        parity_error: the largest error of its outputs, relative to the largest output; None if nothing was compared.
        parity_reference: what its outputs were compared with: `golden`, or the name of a device.
        hazards: what a value of a request could do to the process that runs it.
        precision: that of a file which requests have to ask for; empty for the one that they get otherwise.
    """

    model: str
    version: str
    device: str
    problem: str
    allowed: bool = True
    nodes: dict[str, int] = field(default_factory=dict)
    load_s: float = 0.0
    parity_error: float | None = None
    parity_reference: str = ""
    hazards: tuple[str, ...] = ()
    precision: str = ""


@dataclass(frozen=True)
class Checkup:
    """Everything that was found.

    Attributes:
        cuda_wanted: whether the settings let the server look for GPUs, or declare one.
    """

    facts: Facts
    devices: tuple[Tried, ...] = ()
    models: tuple[ModelOnDevice, ...] = ()
    cuda_wanted: bool = True

    @property
    def startable(self) -> bool:
        """Whether the installation lets a server start."""
        return self.facts.runtime.usable
