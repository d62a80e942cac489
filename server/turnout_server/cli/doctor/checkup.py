"""What is passed from one part of the doctor to the next: the tries, and the findings about them."""

from dataclasses import dataclass, field
from typing import Literal

from turnout_server.cli.doctor.facts import Facts
from turnout_server.devices.device import Device

Severity = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        severity: a `problem` keeps something from working that should; a `warning` may.
        code: what it is, for scripts.
        fix: the command or the setting that helps; empty where nothing is wrong.
    """

    severity: Severity
    code: str
    what: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Tried:
    """A device and its test run: why it failed, or nothing; how long it took, with the start of its process."""

    device: Device
    problem: str
    start_s: float
    declared: bool = False


@dataclass(frozen=True)
class ModelOnDevice:
    """A model version on a device; `device` is empty where the version runs nowhere.

    Attributes:
        problem: why it doesn't run there; empty if it does.
        allowed: whether its configuration lets it run there.
        nodes: how many of its graph's nodes each provider runs.
        load_s: seconds it took to open.
        parity_error: how far its outputs are from the right ones, as a share of the largest; None if nothing was compared.
        parity_reference: what was right: `golden`, or the name of a device.
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


@dataclass(frozen=True)
class Checkup:
    """All that was found out.

    Attributes:
        cuda_wanted: whether the settings let the server look for GPUs, or declare one.
    """

    facts: Facts
    devices: tuple[Tried, ...] = ()
    models: tuple[ModelOnDevice, ...] = ()
    cuda_wanted: bool = True

    @property
    def startable(self) -> bool:
        """Whether a server would get as far as its devices."""
        return self.facts.runtime.usable
