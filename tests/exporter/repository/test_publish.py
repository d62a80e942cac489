import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from turnout_exporter.errors import PublishError, SpecError
from turnout_exporter.repository import modelconfig
from turnout_exporter.repository.publish import Destination, publish
from turnout_exporter.spec.signature import Signature, TensorSpec
from turnout_proto.model_config_pb2 import ModelConfig


def config(width: int = 4) -> ModelConfig:
    x = TensorSpec("x", "FP32", ("batch", width))
    return modelconfig.describe("toy", Signature([x], [x]), 32)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "model.onnx").write_bytes(b"model")
    return directory


def toy(tmp_path: Path, version: int = 1, force: bool = False) -> Destination:
    return Destination(tmp_path / "repository", "toy", version, force)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_new_model_is_published_with_its_configuration_and_labels(tmp_path: Path, files: Path) -> None:
    publish(files, config(), ("cat", "dog"), toy(tmp_path))
    assert tree(tmp_path / "repository") == ["toy/1/model.onnx", "toy/config.pbtxt", "toy/labels.txt"]
    assert (tmp_path / "repository/toy/labels.txt").read_text() == "cat\ndog\n"


def test_published_files_are_readable_by_other_users(tmp_path: Path, files: Path) -> None:
    publish(files, config(), (), toy(tmp_path))
    mask = os.umask(0)
    os.umask(mask)
    for directory in ("toy", "toy/1"):
        assert (tmp_path / "repository" / directory).stat().st_mode & 0o777 == 0o777 & ~mask


def test_an_existing_version_is_refused_with_the_next_free_one(tmp_path: Path, files: Path) -> None:
    publish(files, config(), (), toy(tmp_path, version=3))
    with pytest.raises(PublishError, match=r"toy/3 exists: publish beside it with --version 4, or replace it with --force"):
        publish(files, config(), (), toy(tmp_path, version=3))


def test_force_replaces_the_version(tmp_path: Path, files: Path) -> None:
    publish(files, config(), (), toy(tmp_path))
    (files / "model.onnx").write_bytes(b"better")
    publish(files, config(), (), toy(tmp_path, force=True))
    assert (tmp_path / "repository/toy/1/model.onnx").read_bytes() == b"better"
    assert tree(tmp_path / "repository") == ["toy/1/model.onnx", "toy/config.pbtxt"]


def test_a_second_version_that_fits_leaves_the_configuration_unchanged(tmp_path: Path, files: Path) -> None:
    publish(files, config(), (), toy(tmp_path))
    written = tmp_path / "repository/toy/config.pbtxt"
    written.write_text("# ours\n" + written.read_text() + "\ninstance_group { kind: KIND_CPU }\n")
    before = written.read_text()
    publish(files, config(), (), toy(tmp_path, version=2))
    assert written.read_text() == before
    assert (tmp_path / "repository/toy/2/model.onnx").exists()


def test_a_second_version_that_would_break_the_first_is_refused(tmp_path: Path, files: Path) -> None:
    publish(files, config(), (), toy(tmp_path))
    with pytest.raises(PublishError, match=r"version 2 doesn't fit it: inputs are x FP32\[-1, 5\] instead of x FP32\[-1, 4\]"):
        publish(files, config(width=5), (), toy(tmp_path, version=2))
    assert tree(tmp_path / "repository") == ["toy/1/model.onnx", "toy/config.pbtxt"]


def test_a_second_version_with_other_labels_is_refused(tmp_path: Path, files: Path) -> None:
    publish(files, config(), ("cat", "dog"), toy(tmp_path))
    with pytest.raises(PublishError, match=r"the labels aren't those in labels.txt"):
        publish(files, config(), ("dog", "cat"), toy(tmp_path, version=2))


def test_force_rewrites_the_signature_and_keeps_the_rest(tmp_path: Path, files: Path) -> None:
    publish(files, config(), (), toy(tmp_path))
    written = tmp_path / "repository/toy/config.pbtxt"
    written.write_text(written.read_text() + "instance_group { kind: KIND_CPU }\n")
    publish(files, config(width=5), (), toy(tmp_path, version=2, force=True))
    merged = modelconfig.from_text(written.read_text())
    assert (list(merged.input[0].dims), len(merged.instance_group)) == ([5], 1)


def test_a_repository_that_cannot_be_written_is_named(tmp_path: Path, files: Path) -> None:
    (tmp_path / "repository").write_text("a file")
    with pytest.raises(PublishError, match=r"can't publish to .*repository/toy/1"):
        publish(files, config(), (), toy(tmp_path))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "two words", "-flag"])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="model name"):
        Destination(tmp_path, name, 1, force=False)


KILLED_WHILE_PUBLISHING = """
    import os, signal, sys
    from pathlib import Path
    from turnout_exporter.repository import publish
    from turnout_exporter.repository.modelconfig import ModelConfig

    def killed(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(sys.modules[sys.argv[1]], sys.argv[2], killed)
    destination = publish.Destination(Path(sys.argv[4]), "toy", 1, force=False)
    publish.publish(Path(sys.argv[3]), ModelConfig(name="toy"), (), destination)
"""


@pytest.mark.parametrize(("module", "function"), [("shutil", "copytree"), ("os", "fsync"), ("os", "rename")])
def test_a_crash_leaves_no_version_and_does_not_block_the_next_try(
    tmp_path: Path, files: Path, module: str, function: str
) -> None:
    repository = tmp_path / "repository"
    command = [sys.executable, "-c", dedent(KILLED_WHILE_PUBLISHING), module, function, str(files), str(repository)]
    assert subprocess.run(command, check=False).returncode == -9
    assert [entry.name for entry in repository.iterdir() if not entry.name.startswith(".")] == []
    publish(files, config(), (), toy(tmp_path))
    assert (repository / "toy/1/model.onnx").exists()
