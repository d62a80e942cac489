"""What tests of every folder may ask for."""

import os
import sys
from pathlib import Path

import pytest

from tests.servers import TRANSPORTS

TESTS = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Hides OpenVINO's plug-in where it is installed: every server would have one more device than its test declares.

    The tests that want it are in tests/gpu, and are to be run by themselves then.
    """
    if all(Path(argument).resolve().is_relative_to(TESTS / "gpu") for argument in config.args):
        return
    hidden = str(TESTS / "without_plugins")
    sys.path.insert(0, hidden)
    os.environ["PYTHONPATH"] = os.pathsep.join([hidden, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The name of a transport; a test that asks for it runs once over each."""
    name: str = request.param
    return name
