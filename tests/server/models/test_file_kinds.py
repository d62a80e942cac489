import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from turnout_server.models.file_kinds import mishap_of, unlike_a_model

from tests import models

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 1234\n"
ANNEX = b"/annex/objects/SHA256E-s1234--4d7a2.onnx\n"


@contextmanager
def somebody_else() -> Iterator[None]:
    """A user who may read only what everybody may, because root may read anything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (LFS, "is a Git LFS pointer, and the file itself was not fetched: run git lfs pull"),
        (ANNEX, "is a git-annex pointer"),
        (b"<!DOCTYPE html>\n<html><head>", "is an HTML page"),
        (b"\n\n  <html lang='en'>", "is an HTML page"),
        (b'{"error": "not found"}', "is JSON"),
        (b"PK\x03\x04\x14\x00", "a zip archive, as PyTorch's checkpoints are"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x80\x02}q\x00", "a Python pickle"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00", "a TensorFlow Lite model"),
        (b"<?xml version='1.0'?>\n<net name='x'>", "as OpenVINO's models are"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>', "is the error of a storage service"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(content)
    assert words in unlike_a_model(model)
    assert unlike_a_model(model).startswith("model.onnx is ")


@pytest.mark.parametrize(("content", "words"), [(LFS, "Git LFS pointer"), (b"<html>", "HTML page"), (b"", "is empty")])
def test_what_can_happen_to_any_file_is_told_of_any(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    assert words in mishap_of(tmp_path / "golden.npz")


def test_a_zip_archive_is_only_odd_as_a_model(tmp_path: Path) -> None:
    (tmp_path / "golden.npz").write_bytes(b"PK\x03\x04")
    assert mishap_of(tmp_path / "golden.npz") == ""


@pytest.mark.parametrize("content", [b"this is no model", b"\x00\x01\x02\x03", models.mlp().SerializeToString()])
def test_a_file_that_nothing_tells_of_gets_no_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert unlike_a_model(tmp_path / "model.onnx") == ""


@pytest.mark.parametrize("pointer", [LFS, ANNEX])
def test_weights_that_were_not_fetched_are_named(tmp_path: Path, pointer: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(models.mlp().SerializeToString())
    (tmp_path / "model.onnx.data").write_bytes(pointer)
    assert unlike_a_model(tmp_path / "model.onnx").startswith("model.onnx.data is a ")


def test_a_file_that_may_not_be_read_is_said_with_its_owner_and_mode(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    model.chmod(0o200)
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        directory.chmod(0o755)
    with somebody_else():
        text = mishap_of(model)
        assert text.startswith("cannot be read: Permission denied; it belongs to user ")
        assert f"with mode 0200, and this is user {os.geteuid()}" in text
