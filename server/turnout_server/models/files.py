"""The files of a model repository: their layout, and each model file's precision and size.

Usually `<root>/<model>/<version>/model.onnx` with `<root>/<model>/config.pbtxt`. A root that is itself one model, as KServe
mounts it (`/mnt/models/model.onnx`, or `/mnt/models/1/model.onnx`), is served under the name that the operator gives it.
"""

import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from turnout_server.core.errors import FailedPrecondition

#: Suffixes of files beside a model that never hold its weights.
_NEVER_WEIGHTS = (".onnx", ".json", ".npz")


@dataclass(frozen=True)
class ModelFiles:
    """One model's directory, and the directory of each of its versions by number.

    Attributes:
        error: why the directory can't be listed; empty if it can.
    """

    directory: Path
    versions: dict[int, Path] = field(default_factory=dict)
    error: str = ""

    def fingerprint(self) -> tuple[tuple[str, int, int], ...]:
        """(path, modification time in ns, size in bytes) of each file: changes when a file of the model does.

        A directory that can't be listed counts as empty, so the fingerprint also changes once it can be.
        """
        paths = [self.directory / "config.pbtxt"]
        for version in self.versions.values():
            paths += _regular_files(version)
        return tuple(entry for path in paths if (entry := _entry(path)) is not None)


def find_models(root: Path, model_name: str) -> dict[str, ModelFiles]:
    """The models below `root`, by name. A directory that can't be listed is included, with the reason.

    Args:
        model_name: the name of the single model in `root`; empty if `root` is a directory of models.

    Raises:
        FailedPrecondition: `root` can't be listed; or it is a bare model without a name, or a name is given and it isn't one.
    """
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise FailedPrecondition(f"the model repository {root} cannot be listed: {error.strerror}") from None
    if any(path.name == "model.onnx" for path in entries):
        return {_named(model_name, root): ModelFiles(root, {1: root})}
    if versions := _versions(entries):
        return {_named(model_name, root): ModelFiles(root, versions)}
    if model_name:
        raise FailedPrecondition(f"--model-name is given, but {root} holds neither a model.onnx nor a version directory")
    return {path.name: _model_files(path) for path in entries if path.is_dir() and not path.name.startswith(".")}


def require_own_files(directory: Path, version: Path | None = None, *, follow_links: bool = False) -> None:
    """Returns if everything that may be read of a model is a regular file and its own.

    Whoever writes a model's files may not be allowed to read what a link in it names, and clients may see what is read: labels
    are in answers. Links to the directories of models and versions belong to the repository's layout, and are followed.

    Args:
        directory: the model's. Without `version` its files are checked, except those of version directories.
        version: a version's directory.
        follow_links: whether files may be links to files of others.

    Raises:
        FailedPrecondition: a file isn't; the text names it.
    """
    homes = [each.resolve() for each in (directory, version) if each is not None]
    for path in _files_below(version or directory, but_versions=version is None):
        if not follow_links and not any(path.resolve().is_relative_to(home) for home in homes):
            raise FailedPrecondition(
                f"{path.name} leads out of its model's directory; "
                "put a copy in its place, or start the server with --follow-links if you trust the link"
            )
        if not path.is_dir() and path.exists() and not path.is_file():  # a FIFO would block whoever opens it
            raise FailedPrecondition(f"{path.name} is not a regular file")


def precision_of(directory: Path, file: str) -> str:
    """The precision of one of a version's files: what `model.json` says, else its name, else `fp32`.

    Args:
        directory: the directory of the version.
        file: `model.onnx`, `model.fp16.onnx`.
    """
    return _stated_precision(directory / "model.json", file) or _precision_in_name(file) or "fp32"


def weight_bytes(model: Path) -> int:
    """The bytes of an ONNX file and of the external data that it names; 0 if it can't be read.

    A session takes more: its runs need memory as well, and how much isn't known before the first one.
    """
    try:
        size = model.stat().st_size
        beside = [path for path in model.parent.rglob("*") if path.is_file() and path.suffix not in _NEVER_WEIGHTS]
        if not size or not beside:
            return size
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            named = [path for path in beside if content.find(str(path.relative_to(model.parent)).encode()) >= 0]
        return size + sum(path.stat().st_size for path in named)
    except OSError:
        return 0


def _model_files(directory: Path) -> ModelFiles:
    try:
        return ModelFiles(directory, _versions(list(directory.iterdir())))
    except OSError as error:
        return ModelFiles(directory, error=f"its directory cannot be listed: {error.strerror}")


def _versions(entries: list[Path]) -> dict[int, Path]:
    """Version directories: those named by a positive decimal number without leading zeros."""
    names = {path.name: path for path in entries if path.is_dir()}
    numbers = [int(name) for name in names if _is_version(name)]
    return {number: names[str(number)] for number in sorted(numbers)}


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _files_below(directory: Path, *, but_versions: bool) -> Iterator[Path]:
    """The files below a directory, and the links to directories in it."""
    for parent, folders, files in os.walk(directory):
        if but_versions and Path(parent) == directory:
            folders[:] = [name for name in folders if not _is_version(name)]
        yield from (Path(parent) / name for name in [*folders, *files] if name in files or (Path(parent) / name).is_symlink())


def _named(model_name: str, root: Path) -> str:
    if not model_name:
        raise FailedPrecondition(
            f"{root} is one bare model, not a directory of models; say what it is called with --model-name"
        )
    return model_name


def _regular_files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_file())
    except OSError:
        return []


def _entry(path: Path) -> tuple[str, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return str(path), stat.st_mtime_ns, stat.st_size


def _stated_precision(manifest: Path, file: str) -> str:
    """The precision that a manifest states for a file; empty if it states none or can't be read."""
    try:
        precision = json.loads(manifest.read_text(encoding="utf-8"))["files"][file]["precision"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""
    return precision if isinstance(precision, str) else ""


def _precision_in_name(file: str) -> str:
    parts = file.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "model" and parts[2] == "onnx" else ""
