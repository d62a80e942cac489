"""Runs the README's client example as printed, except for the port and the directory of the models."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import models, wire
from tests.servers import running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(180)
def test_the_example_in_the_readme_exports_serves_and_infers(tmp_path: Path) -> None:
    (client,) = code_blocks("python")
    command = next(line for block in code_blocks("") for line in block.splitlines() if "turnout-export" in line)
    assert "--repository models" in command
    arguments = shlex.split(command.replace("--repository models", f"--repository {tmp_path}"))
    arguments[0] = str(Path(sys.executable).parent / "turnout-export")
    subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, timeout=120)

    assert client.count("127.0.0.1:8001") == 1
    with running(tmp_path) as server:
        code = client.replace("127.0.0.1:8001", server.address)
        answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    digit, device = answer.stdout.split()
    assert 0 <= int(digit) <= 9
    assert device == "cpu" or device.startswith("cuda")


def test_the_two_lines_for_one_file_serve_it(tmp_path: Path) -> None:
    command = next(line for line in README.splitlines() if "--model-name" in line)
    assert command == "turnout-server --model-repository model.onnx --model-name mine"
    (tmp_path / "model.onnx").write_bytes(models.mlp().SerializeToString())
    with running(tmp_path / "model.onnx", "--model-name=mine") as server:
        answer = server.stub.ModelInfer(wire.request("mine", {"x": np.ones((2, 8), np.float32)}))
    assert wire.arrays(answer)["y"].shape == (2, 4)
