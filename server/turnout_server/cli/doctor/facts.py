"""Facts about this machine: its cores and memory, and the installed ONNX Runtime."""

import importlib.metadata
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turnout_cli.installation import install_command

from turnout_server.cli.doctor import nvidia
from turnout_server.cli.doctor.nvidia import Access, Nvidia
from turnout_server.devices import host, installation


@dataclass(frozen=True)
class Host:
    """The machine without its GPUs.

    Attributes:
        affinity: the cores that this process may run on.
        quota_cores: how many cores its control group lets it keep busy at once; None for no quota.
        memory_limit_bytes: the control group's; None for no limit.
    """

    cpu: str
    cores: int
    affinity: tuple[int, ...]
    quota_cores: float | None
    memory_bytes: int
    memory_limit_bytes: int | None

    @property
    def usable_cores(self) -> int:
        """The number of threads of an undeclared CPU device."""
        allowed = len(self.affinity)
        return allowed if self.quota_cores is None else max(1, min(allowed, math.ceil(self.quota_cores)))


@dataclass(frozen=True)
class Runtime:
    """The ONNX Runtime that is installed.

    Attributes:
        wheels: version by distribution.
        cuda: the CUDA version it was built for; empty for a build without CUDA.
        providers: the execution providers that it was compiled with; they need not work.
        problem: why it can't be imported; empty if it can.
        plugins: the versions of the plug-in providers, by distribution.
    """

    wheels: dict[str, str]
    cuda: str
    providers: tuple[str, ...]
    problem: str
    telemetry_off: bool
    plugins: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether one is installed, only one, and can be imported."""
        return len(self.wheels) == 1 and not self.problem

    @property
    def name(self) -> str:
        """Its distributions with their versions."""
        return ", ".join(f"{wheel} {version}" for wheel, version in self.wheels.items())


@dataclass(frozen=True)
class Facts:
    """Everything that was read.

    Attributes:
        install: the command that installs ONNX Runtime, by extra.
    """

    host: Host
    runtime: Runtime
    nvidia: Nvidia
    install: Mapping[str, str] = field(default_factory=lambda: {extra: install_command(extra) for extra in ("cpu", "gpu")})


@dataclass(frozen=True)
class Machine:
    """The sources of the facts: this machine, or a fake one in tests.

    Attributes:
        root: the root of the file system.
        cores: how many the machine has.
        affinity: the cores that this process may run on.
        distribution: finds an installed distribution, or raises PackageNotFoundError.
        distributions: all that are installed.
        providers: returns the providers that ONNX Runtime was compiled with; raises ImportError if it is broken.
        nvidia: access to the driver.
    """

    providers: Callable[[], tuple[str, ...]]
    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cores: int = os.cpu_count() or 1
    affinity: frozenset[int] = field(default_factory=host.usable_cores)
    distribution: Callable[[str], importlib.metadata.Distribution] = importlib.metadata.distribution
    distributions: Callable[[], Iterable[importlib.metadata.Distribution]] = importlib.metadata.distributions
    nvidia: Access = field(default_factory=Access)


def read(machine: Machine) -> Facts:
    """Everything that can be found out without a test run."""
    runtime = _runtime(machine)
    return Facts(_host(machine), runtime, nvidia.read(machine.root, machine.environ, runtime.cuda, machine.nvidia))


def _host(machine: Machine) -> Host:
    return Host(
        cpu=host.cpu_model(machine.root),
        cores=machine.cores,
        affinity=tuple(sorted(machine.affinity)),
        quota_cores=host.quota_cores(machine.root),
        memory_bytes=_memory_bytes(machine.root / "proc/meminfo"),
        memory_limit_bytes=host.memory_limit_bytes(machine.root),
    )


def _memory_bytes(meminfo: Path) -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _runtime(machine: Machine) -> Runtime:
    found = installation.installed(machine.distribution)
    cuda = next((_built_for(wheel) for wheel in reversed(found.values())), "")
    providers: tuple[str, ...] = ()
    problem = ""
    try:
        providers = machine.providers()
    except (ImportError, AttributeError) as error:  # AttributeError: uninstalling one of two wheels leaves an empty package
        problem = str(error)
    telemetry_off = machine.environ.get("ORT_DISABLE_TELEMETRY") == "1"
    versions = {name: wheel.version for name, wheel in found.items()}
    return Runtime(versions, cuda, providers, problem, telemetry_off, installation.plugins(machine.distributions))


def _built_for(wheel: importlib.metadata.Distribution) -> str:
    """The CUDA version that a wheel was built for, read from its file because importing it may fail."""
    try:
        text = Path(str(wheel.locate_file("onnxruntime/capi/build_and_package_info.py"))).read_text()
    except OSError:
        return ""
    found = re.search(r"^cuda_version = ['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""
