import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest
from turnout_exporter.errors import PublishError, SpecError
from turnout_exporter.repository import modelconfig
from turnout_exporter.repository.publish import Destination, check_fits, publish
from turnout_exporter.repository.workspace import workspace
from turnout_exporter.spec.signature import Signature, TensorSpec
from turnout_proto.model_config_pb2 import ModelConfig


def config(width: int = 4) -> ModelConfig:
    x = TensorSpec("x", "FP32", ("batch", width))
    return modelconfig.describe("toy", Signature([x], [x]), 32)


def publish_toy(destination: Destination, config: ModelConfig, labels: Sequence[str] = (), content: bytes = b"model") -> None:
    with workspace(destination.repository) as directory:
        files = directory / "files"
        files.mkdir()
        (files / "model.onnx").write_bytes(content)
        publish(files, config, labels, destination)


def toy(tmp_path: Path, version: int = 1, force: bool = False) -> Destination:
    return Destination(tmp_path / "repository", "toy", version, force)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_new_model_is_published_with_its_configuration_and_labels(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config(), ("cat", "dog"))
    assert tree(tmp_path / "repository") == ["toy/1/model.onnx", "toy/config.pbtxt", "toy/labels.txt"]
    assert (tmp_path / "repository/toy/labels.txt").read_text() == "cat\ndog\n"


def test_published_files_are_readable_by_other_users(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config())
    mask = os.umask(0)
    os.umask(mask)
    for directory in ("toy", "toy/1"):
        assert (tmp_path / "repository" / directory).stat().st_mode & 0o777 == 0o777 & ~mask


def test_an_existing_version_is_refused_with_the_next_free_one(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path, version=3), config())
    with pytest.raises(PublishError, match=r"toy/3 exists: publish beside it with --version 4, or replace it with --force"):
        publish_toy(toy(tmp_path, version=3), config())


def test_force_replaces_the_version(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config())
    publish_toy(toy(tmp_path, force=True), config(), content=b"better")
    assert (tmp_path / "repository/toy/1/model.onnx").read_bytes() == b"better"
    assert tree(tmp_path / "repository") == ["toy/1/model.onnx", "toy/config.pbtxt"]


def test_a_second_version_that_fits_leaves_the_configuration_unchanged(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config())
    written = tmp_path / "repository/toy/config.pbtxt"
    written.write_text("# ours\n" + written.read_text() + "\ninstance_group { kind: KIND_CPU }\n")
    before = written.read_text()
    publish_toy(toy(tmp_path, version=2), config())
    assert written.read_text() == before
    assert (tmp_path / "repository/toy/2/model.onnx").exists()


def test_a_second_version_that_would_break_the_first_is_refused(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config())
    with pytest.raises(PublishError, match=r"version 2 doesn't fit it: inputs are x FP32\[-1, 5\] instead of x FP32\[-1, 4\]"):
        publish_toy(toy(tmp_path, version=2), config(width=5))
    assert tree(tmp_path / "repository") == ["toy/1/model.onnx", "toy/config.pbtxt"]


def test_a_second_version_with_other_labels_is_refused(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config(), ("cat", "dog"))
    with pytest.raises(PublishError, match=r"the labels aren't those in labels.txt"):
        publish_toy(toy(tmp_path, version=2), config(), ("dog", "cat"))


def test_force_rewrites_the_signature_and_keeps_the_rest(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config())
    written = tmp_path / "repository/toy/config.pbtxt"
    written.write_text(written.read_text() + "instance_group { kind: KIND_CPU }\n")
    publish_toy(toy(tmp_path, version=2, force=True), config(width=5))
    merged = modelconfig.from_text(written.read_text())
    assert (list(merged.input[0].dims), len(merged.instance_group)) == ([5], 1)


def test_a_repository_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "repository").write_text("a file")
    with pytest.raises(PublishError, match=r"can't write to the repository .*repository: File exists"):
        publish_toy(toy(tmp_path), config())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "two words", "-flag"])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="model name"):
        Destination(tmp_path, name, 1, force=False)


def test_a_name_that_is_longer_than_a_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the model name has 300 characters; a folder's name may have 255"):
        Destination(tmp_path, "m" * 300, 1, force=False)


KILLED_WHILE_PUBLISHING = """
    import os, signal, sys
    from pathlib import Path
    from turnout_exporter.repository import publish
    from turnout_exporter.repository.modelconfig import ModelConfig
    from turnout_exporter.repository.workspace import workspace

    def killed(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    with workspace(Path(sys.argv[3])) as directory:
        (directory / "files").mkdir()
        (directory / "files" / "model.onnx").touch()
        setattr(sys.modules[sys.argv[1]], sys.argv[2], killed)
        destination = publish.Destination(Path(sys.argv[3]), "toy", 1, force=False)
        publish.publish(directory / "files", ModelConfig(name="toy"), (), destination)
"""


@pytest.mark.parametrize(("module", "function"), [("os", "fsync"), ("os", "rename")])
def test_a_crash_leaves_no_version_and_its_folder_is_removed_by_the_next_export(
    tmp_path: Path, module: str, function: str
) -> None:
    repository = tmp_path / "repository"
    command = [sys.executable, "-c", dedent(KILLED_WHILE_PUBLISHING), module, function, str(repository)]
    assert subprocess.run(command, check=False).returncode == -9
    assert [entry.name for entry in repository.iterdir() if not entry.name.startswith(".")] == []
    assert len(list(repository.iterdir())) == 1
    publish_toy(toy(tmp_path), config())
    assert [entry.name for entry in repository.iterdir()] == ["toy"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"max_batch_size: \xff", r"toy/config\.pbtxt can't be read \('utf-8' codec can't decode.*repair or remove it"),
        (b"max_batch_size: 32 }", "can't be read"),
        (None, r"toy/config\.pbtxt can't be read \(.*Is a directory"),
        (b"max_batch_size: 64", "it was verified with up to 32 rows, not 64"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_before_the_export(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "repository" / "toy" / "config.pbtxt"
    path.parent.mkdir(parents=True)
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(PublishError, match=complaint):
        check_fits(config(), (), toy(tmp_path, version=2))


def test_labels_that_do_not_fit_are_refused_before_the_export(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config(), ("cat", "dog"))
    check_fits(config(), ("cat", "dog"), toy(tmp_path, version=2))
    (tmp_path / "repository" / "toy" / "labels.txt").write_bytes(b"k\xe4fer")
    with pytest.raises(PublishError, match=r"the labels aren't those in labels\.txt"):
        check_fits(config(), ("cat", "dog"), toy(tmp_path, version=2))


def test_labels_are_published_as_utf_8(tmp_path: Path) -> None:
    publish_toy(toy(tmp_path), config(), ("Käfer", "犬"))
    assert (tmp_path / "repository/toy/labels.txt").read_bytes().decode("utf-8") == "Käfer\n犬\n"
