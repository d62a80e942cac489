"""What a file is that should be a model and isn't, for the error that says so.

Looked at only after a file could not be used. A file that works is never refused for its looks.
"""

import os
from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = (b"/annex/objects/", b".git/annex/objects/", b"../.git/annex/")
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<script")
#: How a file begins, and what it is.
_MAGIC = (
    (b"PK\x03\x04", "a zip archive, as PyTorch's checkpoints are too: unpack it, or export the checkpoint with turnout-export"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"\x80\x02", "a Python pickle, as old checkpoints of PyTorch are: export the model with turnout-export"),
    (b"\x80\x04", "a Python pickle: export the model to ONNX"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them: convert the model to ONNX"),
    (b"ORTM", "a model in ONNX Runtime's own format (.ort): name it model.ort and set default_model_filename"),
    (b"<?xml", "an XML file, as OpenVINO's models are: convert the model to ONNX"),
    (b"ptrt", "a TensorRT engine: serve the ONNX model that it was built from"),
    (b"ftrt", "a TensorRT engine: serve the ONNX model that it was built from"),
)
_HEAD_BYTES = 1024


def unlike_a_model(path: Path) -> str:
    """What a file is instead of a model, and what to do; empty if nothing tells.

    Weights beside the model are looked at, too: a repository that was cloned without Git LFS has pointers in their place.
    """
    if what := mishap_of(path) or _other_format(_head(path)):
        return f"{path.name} {what}"
    beside = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    return next((f"{other.name} {what}" for other in beside if (what := _pointer(_head(other)))), "")


def mishap_of(path: Path) -> str:
    """What went wrong when a file was brought here, as the rest of a sentence about it; empty if nothing tells."""
    try:
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        return _unreadable(path, error)
    if not size:
        return "is empty: it was not copied, or the disk was full"
    head = _head(path)
    if pointer := _pointer(head):
        return pointer
    text = head.lstrip().lower()
    if text.startswith(_PAGES):
        return "is an HTML page: the download led to a web page, such as a login"
    if text.startswith(b"<?xml") and b"<error>" in text:
        return "is the error of a storage service: the download was refused"
    return "is JSON: the download may have been answered with an error" if text.startswith(b"{") else ""


def _other_format(head: bytes) -> str:
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite model: convert it to ONNX"
    return next((f"is {what}" for magic, what in _MAGIC if head.startswith(magic)), "")


def _pointer(head: bytes) -> str:
    if head.startswith(_LFS):
        return "is a Git LFS pointer, and the file itself was not fetched: run git lfs pull"
    if head.startswith(_ANNEX):
        return "is a git-annex pointer, and the file itself was not fetched: run git annex get"
    return ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def _unreadable(path: Path, error: OSError) -> str:
    try:
        owner = path.stat()
    except OSError:
        return f"cannot be read: {error.strerror}"
    mode, user = f"{owner.st_mode & 0o777:04o}", os.geteuid() if hasattr(os, "geteuid") else "another"
    return f"cannot be read: {error.strerror}; it belongs to user {owner.st_uid} with mode {mode}, and this is user {user}"
