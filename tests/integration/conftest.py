"""Fixtures of the wire tests. A test that uses `server` runs once over each transport."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests import models
from tests.servers import RunningServer, running


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model of each kind."""
    root = tmp_path_factory.mktemp("zoo")
    models.save_zoo(root)
    return root


@pytest.fixture(scope="session")
def shared_servers(zoo: Path) -> Iterator[Callable[[str], RunningServer]]:
    """Returns the server of a transport, which all tests share; the first call starts it."""
    with ExitStack() as stack:
        yield cache(lambda transport: stack.enter_context(running(zoo, transport=transport)))


@pytest.fixture
def server(shared_servers: Callable[[str], RunningServer], transport: str) -> RunningServer:
    """A shared server of the zoo: tests must not stop it or leave requests running."""
    return shared_servers(transport)
