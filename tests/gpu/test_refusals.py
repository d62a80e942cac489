"""The wire suite once more, on a device in a process of its own."""

from tests.faults.test_requests import *  # noqa: F403

# CUDA's Gather doesn't refuse an index out of range.
del test_an_input_that_the_model_refuses_is_an_invalid_argument  # noqa: F821
