"""Several files of a model on one device: a request chooses one by its precision, and gets the usual one otherwise."""

from collections.abc import Iterator

import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests import models, wire
from tests.servers import TRANSPORTS, RunningServer, running

X = np.zeros((2, 4), np.float32)
CONFIGURATION = """max_batch_size: 8
parameters { key: "turnout.variants" value { string_value: "model.int8.onnx, model.fp16.onnx, model.bf16.onnx" } }
"""


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of a model whose file adds 1; those in other precisions add 8, can't be read, and have another input."""
    root = tmp_path_factory.mktemp("precisions")
    models.save(root, "m", models.add_constant(1), configuration=CONFIGURATION)
    version = root / "m" / "1"
    (version / "model.int8.onnx").write_bytes(models.add_constant(8).SerializeToString())
    (version / "model.fp16.onnx").write_bytes(b"<!DOCTYPE html>")
    (version / "model.bf16.onnx").write_bytes(models.mlp().SerializeToString())
    with running(root, transport=request.param) as server:
        yield server


def asked(server: RunningServer, **parameters: str) -> tuple[float, str]:
    """What was added, and the precision that answered."""
    answer = server.stub.ModelInfer(wire.request("m", {"x": X}, parameters=parameters))
    return float(wire.arrays(answer)["y"][0, 0]), answer.parameters["precision"].string_param


def test_a_precision_chooses_the_file_and_none_is_chosen_without_it(server: RunningServer) -> None:
    assert asked(server) == (1, "fp32")
    for _ in range(2):  # the second time from what was kept of the first
        assert asked(server, precision="int8") == (8, "int8")
        assert asked(server, precision="int8", device="cpu") == (8, "int8")
        assert asked(server, precision="fp32") == (1, "fp32")
        assert asked(server, device="auto") == (1, "fp32")


@pytest.mark.parametrize(
    ("precision", "text"),
    [
        ("banana", "has no banana file: there is fp32, int8 on 'cpu'"),
        ("fp16", "HTML page"),
        ("bf16", "its inputs and outputs aren't those of model.onnx"),
    ],
)
def test_a_precision_that_cannot_be_served_says_why(server: RunningServer, precision: str, text: str) -> None:
    with wire.refused("FAILED_PRECONDITION", text):
        asked(server, precision=precision)
    assert asked(server) == (1, "fp32")


def test_the_configuration_has_the_files_and_what_became_of_them(server: RunningServer) -> None:
    parameters = server.stub.ModelConfig(pb.ModelConfigRequest(name="m")).config.parameters
    assert parameters["turnout.variants"].string_value == "model.int8.onnx, model.fp16.onnx, model.bf16.onnx"
    assert parameters["turnout.report.cpu"].string_value.startswith("fp32; loaded in ")
    assert parameters["turnout.report.cpu.int8"].string_value.startswith("int8; loaded in ")
    assert "HTML page" in parameters["turnout.report.cpu.fp16"].string_value
    assert "model m version 1 is not served in bf16" in server.process.log
