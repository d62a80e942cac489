"""What opens a device's sessions: in this process, or in one of the device's own. Who uses them can't tell which."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from turnout_server.core.device_names import KINDS, kind_of
from turnout_server.core.errors import FailedPrecondition, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import discovery, openvino
from turnout_server.devices.bucket_session import BucketSession
from turnout_server.devices.cuda_runtime import gpu_of
from turnout_server.devices.device import Device, cpu, cuda
from turnout_server.devices.gpu_power import with_power
from turnout_server.devices.guarded_engine import GuardedEngine
from turnout_server.devices.host import why_no_isolation
from turnout_server.devices.places import shared_cores
from turnout_server.devices.probe import unavailable_reason
from turnout_server.devices.process_engine import ProcessEngine
from turnout_server.devices.sessions import OnnxSession, Session, built_in_providers

logger = logging.getLogger(__name__)


#: Why a server has no device of a kind that it didn't look for.
UNDECLARED = "none is declared; [devices.'{kind}:0'] in the --config file would declare one"
DISABLED = "the settings disable {name}"


class Engine(Protocol):
    """A device that works: a real run on it has given the right answer.

    Attributes:
        restarts: how often its process had to be replaced.
    """

    device: Device

    @property
    def restarts(self) -> int: ...

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        """Opens a model there; see OnnxSession for what it raises.

        Args:
            buckets: the numbers of rows to pad runs to, if the device can; only for models whose rows are independent.
            graphs: whether to try a CUDA graph for each of them.
        """
        ...

    def unavailable_reason(self) -> ServingError | None:
        """Why nothing can run here now; None if it can."""
        ...

    def await_ready(self, timeout_s: float) -> None:
        """Returns once models can be opened here, or after this long."""
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
        if (reason := unavailable_reason(device)) is not None:
            raise FailedPrecondition(reason)

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        if buckets:
            return BucketSession(path, self.device, options, buckets, gpu_of(self.device))
        return OnnxSession(path, self.device, options)

    def unavailable_reason(self) -> ServingError | None:
        return None

    def await_ready(self, timeout_s: float) -> None:
        """It always is."""

    def stop(self) -> None:
        """There is nothing to give back but memory."""


def start(device: Device, changed: Callable[[], None]) -> Engine:
    """The engine of a device.

    Args:
        changed: called whenever the device became ready or stopped being so.

    Raises:
        FailedPrecondition: a test run on it doesn't succeed; the text says why.
    """
    if device.isolated and (reason := why_no_isolation()) is not None:
        raise FailedPrecondition(f'{reason}; declare it with isolation = "in-process"')
    known = with_power(device)
    if device.isolated:
        return ProcessEngine(known, changed)
    guarded = device.guarded and why_no_isolation() is None
    return GuardedEngine(LocalEngine(known), changed) if guarded else LocalEngine(known)


@dataclass(frozen=True)
class Engines:
    """The devices of this server that work, and why it lacks others: whole kinds by their name, GPUs by theirs."""

    by_name: dict[str, Engine]
    missing: dict[str, str]

    def stop(self) -> None:
        for engine in self.by_name.values():
            engine.stop()


def bring_up(
    declared: Sequence[Device], disabled: Collection[str], changed: Callable[[], None], cache_dir: Path | None = None
) -> Engines:
    """Starts every device that is declared, and those that are found besides: the CPU, OpenVINO, and GPUs that CUDA runs.

    Args:
        disabled: devices, and whole kinds, not to look for.
        changed: called whenever a device became ready or stopped being so.
        cache_dir: where devices keep what they compiled; None for nowhere.

    Raises:
        FailedPrecondition: a declared device doesn't work, or there is none at all; the text says which and why.
    """
    by_name: dict[str, Engine] = {}
    missing = {kind: UNDECLARED.format(kind=kind) for kind in KINDS} | {name: DISABLED.format(name=name) for name in disabled}
    try:
        for device in declared:
            by_name[device.name] = _declared(openvino.configured(device, cache_dir), changed)
        if "cpu" not in by_name and "cpu" not in disabled:
            by_name["cpu"] = start(cpu(), changed)
        if "openvino" not in disabled and "openvino" not in by_name:
            missing |= _find_openvino(by_name, changed, cache_dir)
        if "cuda" not in disabled:
            missing |= _find_gpus(by_name, disabled, changed)
        if not by_name:
            raise FailedPrecondition(f"there is no device to run on: {missing['cpu']}, and cuda is missing: {missing['cuda']}")
    except ServingError:
        Engines(by_name, missing).stop()
        raise
    running = [engine.device for engine in by_name.values()]
    for device in running:
        missing.pop(device.kind, None)
    for name in missing:
        if kind_of(name) == "cuda" or (name == "openvino" and openvino.library()):
            logger.info("%s: not available: %s", name, missing[name])
    _warn_of_shared_cores(running)
    return Engines(by_name, missing)


def _declared(device: Device, changed: Callable[[], None]) -> Engine:
    try:
        return start(device, changed)
    except FailedPrecondition as error:
        raise FailedPrecondition(f"[devices.{device.name!r}] does not work with {device.provider}: {error}") from None


def _find_openvino(by_name: dict[str, Engine], changed: Callable[[], None], cache_dir: Path | None) -> dict[str, str]:
    """Adds OpenVINO if its plug-in is installed and works; returns why it doesn't, by name."""
    if not (plugin := openvino.library()):
        return {}
    device = openvino.configured(openvino.openvino(plugin), cache_dir)
    try:
        by_name[device.name] = start(device, changed)
    except FailedPrecondition as error:
        return {device.name: str(error)}
    return {}


def _find_gpus(by_name: dict[str, Engine], disabled: Collection[str], changed: Callable[[], None]) -> dict[str, str]:
    """Adds every GPU that works; returns why the others don't, by name, and under `cuda` why there might be none."""
    if (reason := discovery.missing_for_cuda(built_in_providers())) is not None:
        return {"cuda": reason}
    missing: dict[str, str] = {}
    for gpu in map(cuda, range(discovery.count_gpus())):
        if gpu.name in disabled:
            missing[gpu.name] = DISABLED.format(name=gpu.name)
        elif gpu.name not in by_name:
            try:
                by_name[gpu.name] = start(gpu, changed)
            except FailedPrecondition as error:
                missing[gpu.name] = str(error)
    return {"cuda": "; ".join(dict.fromkeys(missing.values())), **missing}


def _warn_of_shared_cores(running: Sequence[Device]) -> None:
    for one, other, cores in shared_cores(running):
        logger.warning(
            "devices %s and %s share the cores %s: the profile of each is wrong while the other is busy; keep them apart with "
            "cpus, or disable one",
            one.name,
            other.name,
            list(cores),
        )
