"""Tests that Turnout's message classes can be imported beside those of other packages for the protocol."""

from itertools import permutations

import pytest

from tests.clients.environments import KSERVE, run_python

SAME_ENVIRONMENT = ("turnout_proto.inference_pb2", "tritonclient.grpc")
KSERVE_ENVIRONMENT = ("turnout_proto.inference_pb2", "kserve")


def _script(modules: tuple[str, ...]) -> str:
    use = "from turnout_proto import inference_pb2\nassert inference_pb2.ModelInferRequest(model_name='m').model_name == 'm'"
    return "\n".join([*(f"import {module}" for module in modules), use])


@pytest.mark.parametrize("order", list(permutations(SAME_ENVIRONMENT)), ids=" then ".join)
def test_it_can_be_imported_beside_tritonclient_in_any_order(order: tuple[str, ...]) -> None:
    run_python(None, _script(order))


@pytest.mark.parametrize("order", list(permutations(KSERVE_ENVIRONMENT)), ids=" then ".join)
def test_it_can_be_imported_beside_kserve_in_any_order(order: tuple[str, ...]) -> None:
    run_python(KSERVE, _script(order))


def test_nothing_is_registered_in_the_default_descriptor_pool() -> None:
    script = (
        "import turnout_proto.inference_pb2\n"
        "from google.protobuf import descriptor_pool\n"
        "descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
    )
    with pytest.raises(AssertionError, match="KeyError"):
        run_python(None, script)
