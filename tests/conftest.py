"""What tests of every folder may ask for."""

import pytest

from tests.servers import TRANSPORTS


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The name of a transport; a test that asks for it runs once over each."""
    name: str = request.param
    return name
