"""Turnout's message classes live beside those of every other package that speaks the protocol."""

from itertools import permutations

import pytest

from tests.clients.environments import KSERVE, run_python

HERE = ("turnout_proto.inference_pb2", "tritonclient.grpc")
ELSEWHERE = ("turnout_proto.inference_pb2", "kserve")


def _script(modules: tuple[str, ...]) -> str:
    used = "from turnout_proto import inference_pb2\nassert inference_pb2.ModelInferRequest(model_name='m').model_name == 'm'"
    return "\n".join([*(f"import {module}" for module in modules), used])


@pytest.mark.parametrize("order", list(permutations(HERE)), ids=" then ".join)
def test_it_is_imported_beside_tritonclient_in_any_order(order: tuple[str, ...]) -> None:
    run_python(None, _script(order))


@pytest.mark.parametrize("order", list(permutations(ELSEWHERE)), ids=" then ".join)
def test_it_is_imported_beside_kserve_in_any_order(order: tuple[str, ...]) -> None:
    run_python(KSERVE, _script(order))


def test_nothing_is_registered_where_others_register() -> None:
    script = (
        "import turnout_proto.inference_pb2\n"
        "from google.protobuf import descriptor_pool\n"
        "descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
    )
    with pytest.raises(AssertionError, match="KeyError"):
        run_python(None, script)
