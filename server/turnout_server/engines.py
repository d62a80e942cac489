"""What opens a device's sessions: in this process, or in one of the device's own. Who uses them can't tell which."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from turnout_server import devices
from turnout_server.config import RuntimeOptions
from turnout_server.devicenames import KINDS
from turnout_server.devices import MAX_GPUS, Device
from turnout_server.errors import FailedPrecondition, ServingError
from turnout_server.isolation import ChildEngine
from turnout_server.sessions import OnnxSession, Session, built_in_providers, problem_with

logger = logging.getLogger(__name__)


#: Why a server has no device of a kind that it didn't look for.
UNDECLARED = "the --config file declares none; it would as [devices.'{kind}:0']"
DISABLED = "the --config file disables it"


class Engine(Protocol):
    """A device that works: a real run on it has given the right answer.

    Attributes:
        restarts: how often its process had to be replaced.
    """

    device: Device
    restarts: int

    def open(self, path: Path, options: RuntimeOptions) -> Session:
        """Opens a model there; see OnnxSession for what it raises."""
        ...

    def problem(self) -> ServingError | None:
        """Why nothing can run here now; None if it can."""
        ...

    def stop(self) -> None:
        """Gives everything back."""
        ...


class LocalEngine:
    """A device in this process.

    Raises:
        FailedPrecondition: a test run on it doesn't succeed.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.restarts = 0
        if (problem := problem_with(device)) is not None:
            raise FailedPrecondition(problem)

    def open(self, path: Path, options: RuntimeOptions) -> Session:
        return OnnxSession(path, self.device, options)

    def problem(self) -> ServingError | None:
        return None

    def stop(self) -> None:
        """There is nothing to give back but memory."""


def start(device: Device, changed: Callable[[], None]) -> Engine:
    """The engine of a device.

    Args:
        changed: called whenever the device became ready or stopped being so.

    Raises:
        FailedPrecondition: a test run on it doesn't succeed; the text says why.
    """
    return ChildEngine(device, changed) if device.isolated else LocalEngine(device)


@dataclass(frozen=True)
class Engines:
    """The devices of this server that work, and why it lacks whole kinds of them."""

    by_name: dict[str, Engine]
    missing: dict[str, str]

    def stop(self) -> None:
        for engine in self.by_name.values():
            engine.stop()


def bring_up(declared: Sequence[Device], disabled: Collection[str], changed: Callable[[], None]) -> Engines:
    """Starts every device that is declared, and those that are found besides: the CPU, and GPUs that CUDA runs.

    Args:
        disabled: devices, and whole kinds, not to look for.
        changed: called whenever a device became ready or stopped being so.

    Raises:
        FailedPrecondition: a declared device doesn't work; the text says which and why.
    """
    by_name: dict[str, Engine] = {}
    missing = {kind: DISABLED if kind in disabled else UNDECLARED.format(kind=kind) for kind in KINDS}
    try:
        for device in declared:
            by_name[device.name] = _declared(device, changed)
        if "cpu" not in by_name and "cpu" not in disabled:
            by_name["cpu"] = start(devices.cpu(), changed)
        if "cuda" not in disabled:
            missing["cuda"] = _find_gpus(by_name, disabled, changed)
    except ServingError:
        Engines(by_name, missing).stop()
        raise
    running = [engine.device for engine in by_name.values()]
    for device in running:
        missing.pop(device.kind, None)
    if "cuda" in missing:
        logger.info("cuda: not available: %s", missing["cuda"])
    _warn_of_shared_cores(running)
    return Engines(by_name, missing)


def _declared(device: Device, changed: Callable[[], None]) -> Engine:
    try:
        return start(device, changed)
    except FailedPrecondition as error:
        raise FailedPrecondition(f"[devices.{device.name!r}] does not work with {device.provider}: {error}") from None


def _find_gpus(by_name: dict[str, Engine], disabled: Collection[str], changed: Callable[[], None]) -> str:
    """Adds every GPU that works, up to the first that doesn't; returns why there are no more."""
    if (reason := devices.missing_for_cuda(built_in_providers())) is not None:
        return reason
    for number in range(MAX_GPUS):
        gpu = devices.cuda(number)
        if gpu.name in by_name or gpu.name in disabled:
            continue
        try:
            by_name[gpu.name] = start(gpu, changed)
        except FailedPrecondition as error:
            return str(error)
    return f"more than {MAX_GPUS} are not looked for"


def _warn_of_shared_cores(running: Sequence[Device]) -> None:
    for one, other, cores in devices.shared_cores(running):
        logger.warning(
            "devices %s and %s share the cores %s: the profile of each is wrong while the other works; keep them apart with "
            "cpus, or disable one",
            one.name,
            other.name,
            list(cores),
        )
