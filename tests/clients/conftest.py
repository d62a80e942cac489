"""Fixtures for tests with third-party clients: servers of a repository that was written for Triton."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from tests import tritonrepository
from tests.servers import RunningServer, running


@pytest.fixture(scope="session")
def triton_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("triton")
    tritonrepository.save(root)
    return root


@pytest.fixture(scope="session")
def shared_servers(
    triton_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], RunningServer]]:
    """Returns the server of a transport, which all tests share; the first call starts it."""
    traces = tmp_path_factory.mktemp("traces")

    def start(transport: str) -> RunningServer:
        flags = ["--allow-client-shm", "--allow-control", "--server-name=triton", f"--trace-file={traces / transport}"]
        return stack.enter_context(running(triton_repository, *flags, transport=transport))

    with ExitStack() as stack:
        yield cache(start)


@pytest.fixture
def server(shared_servers: Callable[[str], RunningServer], transport: str) -> RunningServer:
    """A shared server with the name `triton` that allows shared memory. Tests must not stop it or change its settings."""
    return shared_servers(transport)


@pytest.fixture
def client(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture
def explicit_client(triton_repository: Path, transport: str) -> Iterator[triton.InferenceServerClient]:
    """A client of its own server in explicit model-control mode."""
    with (
        running(triton_repository, "--model-control-mode=explicit", "--load-model=simple", transport=transport) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        yield client
