"""The clients in examples/clients: those in Python run, and what their README names is there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import models
from tests.servers import RunningServer, running

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"
README = (CLIENTS / "README.md").read_text()


def digits() -> onnx.ModelProto:
    """A model with the inputs and outputs of the README's `digits`, for which every image is a 7."""
    nodes = [helper.make_node("Flatten", ["image"], ["pixels"]), helper.make_node("Gemm", ["pixels", "w", "b"], ["logits"])]
    constants = {"w": np.zeros((64, 10), np.float32), "b": np.eye(10, dtype=np.float32)[7]}
    image: models.Tensor = (TensorProto.FLOAT, ("batch", 1, 8, 8))
    return models.model(nodes, {"image": image}, {"logits": (TensorProto.FLOAT, ("batch", 10))}, constants)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("models")
    models.save(root, "digits", digits())
    with running(root, "--device", "cuda:0={disabled = true}") as started:
        yield started


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_tritons_client_prints_the_digit_and_the_device(server: RunningServer) -> None:
    client = str(CLIENTS / "python" / "tritonclient_client.py")
    assert run(sys.executable, client, server.address, "cpu").stdout == "7 cpu requested\n"
    refused = run(sys.executable, client, server.address, "cuda:0")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("StatusCode.FAILED_PRECONDITION: device 'cuda:0' is not available")


def test_the_client_of_grpc_alone_prints_each_answer_of_its_stream(server: RunningServer) -> None:
    client = str(CLIENTS / "python" / "grpc_client.py")
    assert run(sys.executable, client, server.address, "cpu").stdout == "0 7 cpu\n1 7 cpu\n2 7 cpu\n"
    refused = run(sys.executable, client, server.address, "cuda:0").stdout.splitlines()
    assert [line.split()[0] for line in refused] == ["0", "1", "2"]
    assert all("device 'cuda:0' is not available" in line for line in refused)


@pytest.mark.parametrize("client", ["tritonclient_client.py", "grpc_client.py"])
def test_without_a_server_a_client_says_so(client: str) -> None:
    done = run(sys.executable, str(CLIENTS / "python" / client), "127.0.0.1:9")
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_client_is_in_the_readme_and_every_file_there_exists() -> None:
    named = set(re.findall(r"\]\(((?:python|node|go|java|cpp)/[\w.]+)\)", README))
    suffixes = (".py", ".mjs", ".go", ".java", ".cc")
    there = {str(path.relative_to(CLIENTS)) for path in CLIENTS.rglob("*") if path.suffix in suffixes}
    assert named == there
    for file in re.findall(r"\b\w+\.proto\b", README.replace("opt=M", "opt=M ")):
        assert (CLIENTS.parents[1] / "proto" / file).exists()
