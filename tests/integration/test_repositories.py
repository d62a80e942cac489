"""Repositories as people bring them along: what is in them is served, or named for what it is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests import models, wire
from tests.servers import RunningServer, running

X = np.arange(16, dtype=np.float32).reshape(2, 8)


def reasons(server: RunningServer) -> dict[str, str]:
    return {model.name: model.reason for model in server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}


def answers(server: RunningServer, model: str) -> bool:
    return wire.arrays(server.stub.ModelInfer(wire.request(model, {"x": X})))["y"].shape == (2, 4)


def test_files_that_are_not_what_they_seem_are_named_and_the_rest_is_served(tmp_path: Path) -> None:
    models.save(tmp_path, "good", models.mlp())
    models.save(tmp_path, "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    models.save(tmp_path, "page", b"<!DOCTYPE html><html></html>")
    models.save(tmp_path, "renamed", models.mlp())
    (tmp_path / "renamed" / "1" / "model.onnx").rename(tmp_path / "renamed" / "1" / "my.onnx")
    (tmp_path / "directory" / "1" / "model.onnx").mkdir(parents=True)
    (tmp_path / "directory" / "1" / "model.onnx" / "model.onnx").write_bytes(models.mlp().SerializeToString())
    for left_behind in ("__pycache__", "lost+found", ".git"):
        (tmp_path / left_behind).mkdir()
    with running(tmp_path) as server:
        assert answers(server, "good")
        assert answers(server, "directory")
        found = reasons(server)
    assert found.keys() == {"good", "pointer", "page", "renamed", "directory"}
    assert "model.onnx is a Git LFS pointer" in found["pointer"]
    assert "model.onnx is an HTML page" in found["page"]
    assert "but my.onnx is: rename it" in found["renamed"]


def test_weights_in_a_file_of_their_own_are_read_in_the_directory_form(tmp_path: Path) -> None:
    import onnx

    folder = tmp_path / "m" / "1" / "model.onnx"
    folder.mkdir(parents=True)
    onnx.save(models.mlp(), folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").exists()
    with running(tmp_path) as server:
        assert answers(server, "m")


def test_a_single_file_is_served_under_the_name_given(tmp_path: Path) -> None:
    file = tmp_path / "perceptron.onnx"
    file.write_bytes(models.mlp().SerializeToString())
    with running(file, "--model-name=m") as server:
        assert answers(server, "m")


@pytest.mark.parametrize("name", ["x.onnx", "no-model.txt"])
def test_a_single_file_without_a_name_gets_the_commands_that_serve_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    command = [sys.executable, "-m", "turnout_server", f"--model-repository={tmp_path / name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"--model-repository {tmp_path / name} --model-name" in done.stderr
    assert "Traceback" not in done.stderr
