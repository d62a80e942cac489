"""The wire suite once more, on a device in a process of its own."""

from tests.faults.test_requests import *  # noqa: F403

# Gather on CUDA and OpenVINO doesn't refuse an index out of range.
del test_an_input_that_the_model_refuses_is_an_invalid_argument  # noqa: F821
del test_47_a_request_that_fails_does_not_fail_those_in_its_batch  # noqa: F821
