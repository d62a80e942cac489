"""The wire suite once more, on a device in a process of its own."""

from tests.integration.test_infer import *  # noqa: F403
