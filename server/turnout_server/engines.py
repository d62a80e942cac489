"""What opens a device's sessions: in this process, or in one of the device's own. Who uses them can't tell which."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from turnout_server import devices
from turnout_server.config import RuntimeOptions
from turnout_server.devices import MAX_GPUS, Device
from turnout_server.errors import FailedPrecondition, ServingError
from turnout_server.isolation import ChildEngine
from turnout_server.sessions import OnnxSession, Session, built_in_providers, problem_with


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


def bring_up(declared: Sequence[Device], undeclared: Iterable[str], changed: Callable[[], None]) -> Engines:
    """Starts every device that is declared, and those that are found besides.

    Args:
        undeclared: kinds to look for: `cpu`, `cuda`.
        changed: called whenever a device became ready or stopped being so.

    Raises:
        FailedPrecondition: a declared device doesn't work; the text says which and why.
    """
    by_name: dict[str, Engine] = {}
    missing: dict[str, str] = {}
    try:
        for device in declared:
            by_name[device.name] = _declared(device, changed)
        if "cpu" in undeclared and "cpu" not in by_name:
            by_name["cpu"] = start(devices.cpu(), changed)
        if "cuda" in undeclared:
            missing.update(_find_gpus(by_name, changed))
    except ServingError:
        Engines(by_name, missing).stop()
        raise
    return Engines(by_name, missing)


def _declared(device: Device, changed: Callable[[], None]) -> Engine:
    try:
        return start(device, changed)
    except FailedPrecondition as error:
        raise FailedPrecondition(f"[devices.{device.name!r}] does not work: {error}") from None


def _find_gpus(by_name: dict[str, Engine], changed: Callable[[], None]) -> dict[str, str]:
    """Adds every GPU that works; returns why there is none, if so."""
    reason = devices.missing_for_cuda(built_in_providers())
    for number in range(MAX_GPUS):
        if reason is not None:
            break
        gpu = devices.cuda(number)
        if gpu.name not in by_name:
            try:
                by_name[gpu.name] = start(gpu, changed)
            except FailedPrecondition as error:
                reason = str(error)
    has_gpu = any(engine.device.kind == "cuda" for engine in by_name.values())
    return {} if has_gpu or reason is None else {"cuda": reason}
