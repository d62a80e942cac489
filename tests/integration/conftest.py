"""The servers that wire tests talk to. A test that asks for `server` runs once over every transport."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests import models
from tests.servers import RunningServer, running


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model of each sort."""
    root = tmp_path_factory.mktemp("zoo")
    models.save_zoo(root)
    return root


@pytest.fixture(scope="session")
def shared_servers(zoo: Path) -> Iterator[Callable[[str], RunningServer]]:
    """The one server of each transport that all tests share, started when the first of them asks."""
    with ExitStack() as stack:
        yield cache(lambda transport: stack.enter_context(running(zoo, transport=transport)))


@pytest.fixture
def server(shared_servers: Callable[[str], RunningServer], transport: str) -> RunningServer:
    """A server over the zoo. Don't stop it, and leave nothing running in it."""
    return shared_servers(transport)
