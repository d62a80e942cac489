"""The wire suite once more, on a device in a process of its own."""

from tests.integration.test_tritonclient import *  # noqa: F403
