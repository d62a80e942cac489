"""The message classes can live in one process with others that are called the same."""

import subprocess
import sys

import pytest

OURS = "from turnout_proto import inference_pb2, model_config_pb2"
THEIRS = "import tritonclient.grpc"


@pytest.mark.parametrize("imports", [[OURS, THEIRS], [THEIRS, OURS]], ids=["ours first", "tritonclient first"])
def test_turnout_and_tritonclient_import_in_one_process(imports: list[str]) -> None:
    check = """
ours = inference_pb2.ModelInferRequest(model_name="m", id="7")
theirs = tritonclient.grpc.service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
assert (theirs.model_name, theirs.id) == ("m", "7")
"""
    subprocess.run([sys.executable, "-c", "\n".join([*imports, check])], check=True)
