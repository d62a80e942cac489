"""Devices in processes of their own: a GPU, and beside it a CPU, which shows without a GPU that these tests are right.

Tests of the GPU are skipped where none works, with the reason that the server itself gives.
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
#: Both devices, and what each one's table needs besides. TF32 would hide whether the rest is exact.
TABLES = {GPU: "tf32 = false", "cpu:child": 'threads = 1\nisolation = "process"'}


@pytest.fixture(scope="session")
def gpu() -> str:
    """A GPU that works."""
    found = engines.bring_up([], [], lambda: None)
    found.stop()
    if GPU not in found.by_name:
        pytest.skip(found.missing["cuda"])
    return GPU


@pytest.fixture(scope="session", params=[pytest.param(name, marks=pytest.mark.gpu if name == GPU else ()) for name in TABLES])
def device(request: pytest.FixtureRequest) -> str:
    """The name of a device that has a process of its own."""
    name: str = request.param
    return str(request.getfixturevalue("gpu")) if name == GPU else name


def declared(directory: Path, device: str, *settings: str) -> str:
    """The flag for a file in `directory` that declares this device, and no other GPU."""
    file = directory / "turnout.toml"
    table = "\n".join([f'[devices."{device}"]', TABLES[device], *settings])
    file.write_text(f"[devices.cpu]\nthreads = 1\n[devices.cuda]\ndisabled = true\n{table}\n")
    return f"--config={file}"


@pytest.fixture(scope="session")
def shared_servers(
    zoo: Path, device: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], RunningServer]]:
    """The one server of each transport that the wire tests share; what doesn't name a device runs on this one."""
    flags = [declared(tmp_path_factory.mktemp("settings"), device), f"--default-device={device}"]
    with ExitStack() as stack:
        yield cache(lambda transport: stack.enter_context(running(zoo, *flags, transport=transport)))
