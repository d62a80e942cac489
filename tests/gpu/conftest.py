"""Devices in processes of their own: a GPU, OpenVINO, and a CPU, which shows without either that these tests are right.

Tests of the GPU and of OpenVINO are skipped where these don't work, with the reason that the server itself gives.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from turnout_server.devices import engines

from tests.integration.conftest import server, zoo
from tests.servers import RunningServer, running

__all__ = ["server", "zoo"]

GPU = "cuda:0"
OPENVINO = "openvino"
#: The devices, and what each one's table needs besides. TF32 would hide whether the rest is exact.
TABLES = {GPU: "tf32 = false", OPENVINO: "threads = 1", "cpu:child": 'threads = 1\nisolation = "process"'}


@pytest.fixture(scope="session")
def gpu() -> str:
    """A GPU that works."""
    found = engines.bring_up([], [], lambda: None)
    found.stop()
    if GPU not in found.by_name:
        pytest.skip(found.missing["cuda"])
    return GPU


@pytest.fixture(scope="session")
def openvino() -> str:
    """OpenVINO, which works."""
    found = engines.bring_up([], {"cuda"}, lambda: None)
    found.stop()
    if OPENVINO not in found.by_name:
        pytest.skip(found.missing[OPENVINO])
    return OPENVINO


@pytest.fixture(scope="session", params=[pytest.param(name, marks=pytest.mark.gpu if name == GPU else ()) for name in TABLES])
def device(request: pytest.FixtureRequest) -> str:
    """The name of a device that has a process of its own."""
    name: str = request.param
    return str(request.getfixturevalue({GPU: "gpu", OPENVINO: "openvino"}[name])) if name in (GPU, OPENVINO) else name


def declared(directory: Path, device: str, *settings: str) -> str:
    """The flag for a file in `directory` that declares this device, and no other GPU."""
    file = directory / "turnout.toml"
    table = "\n".join([f'[devices."{device}"]', TABLES[device], *settings])
    others = "".join(f"[devices.{name}]\ndisabled = true\n" for name in ("cuda", OPENVINO) if name != device)
    file.write_text(f"[devices.cpu]\nthreads = 1\n{others}{table}\n")
    return f"--config={file}"


@pytest.fixture(scope="session")
def shared_servers(
    zoo: Path, device: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], RunningServer]]:
    """The one server of each transport that the wire tests share; what doesn't name a device runs on this one."""
    preferred = f"{device},cpu" if device == OPENVINO else device  # it leaves text and what needs 64 bits to the CPU
    flags = [declared(tmp_path_factory.mktemp("settings"), device), f"--default-device={preferred}"]
    with ExitStack() as stack:
        yield cache(lambda transport: stack.enter_context(running(zoo, *flags, transport=transport)))
