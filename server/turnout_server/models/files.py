"""The files of a model repository: their layout, and each model file's precision.

Usually `<root>/<model>/<version>/model.onnx` with `<root>/<model>/config.pbtxt`; `model.onnx` may also be a directory that has
the file of that name and the weights that belong to it, as in Triton. A root that is itself one model, as KServe mounts it
(`/mnt/models/model.onnx`, or `/mnt/models/1/model.onnx`), or that is a single file, is served under the name that the operator
gives it.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from turnout_server.core.errors import FailedPrecondition
from turnout_server.devices import onnx_graph
from turnout_server.models.regular_files import regular

#: Directories that other programs leave behind; those whose names begin with a dot aren't models either.
_NO_MODELS = ("__pycache__", "__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
_NEARLY_A_VERSION = re.compile(r"[vV]?(ersion)?[-_]?\d[\d.]*")
_EXPORT, _CONVERT = "export it with turnout-export", "convert it to ONNX"
#: Files of models in other formats, by suffix, and what to do with them.
_OTHER_FORMATS = dict.fromkeys((".pt", ".pth", ".safetensors", ".ckpt"), _EXPORT) | dict.fromkeys(
    (".savedmodel", ".pb", ".h5", ".keras", ".tflite", ".graphdef", ".plan", ".engine", ".xml", ".joblib", ".pkl"), _CONVERT
)
#: The file of a model, if its configuration names none.
MODEL_FILE = "model.onnx"
#: What is read besides it, if the repository is a single file.
_BESIDE_A_FILE = ("config.pbtxt", "model.json", "golden.npz")


@dataclass(frozen=True)
class ModelFiles:
    """One model's directory, and the directory of each of its versions by number.

    Attributes:
        error: why the directory can't be listed; empty if it can.
        nearly_versions: what in it is called nearly like a version, such as `v1` or `01`.
        file: the model's only file, if the repository is that file; empty otherwise.
    """

    directory: Path
    versions: dict[int, Path] = field(default_factory=dict)
    error: str = ""
    file: str = ""
    nearly_versions: tuple[str, ...] = ()

    def fingerprint(self) -> tuple[tuple[str, int, int], ...]:
        """(path, modification time in ns, size in bytes) of each file: changes when a file of the model does.

        A directory that can't be listed counts as empty, so the fingerprint also changes once it can be.
        """
        paths = [self.directory / "config.pbtxt"]
        for version in self.versions.values():
            paths += _regular_files(version, f"{self.file}*")
        return tuple(entry for path in paths if (entry := _entry(path)) is not None)


def find_models(root: Path, model_name: str) -> dict[str, ModelFiles]:
    """The models below `root`, by name. A directory that can't be listed is included, with the reason.

    Args:
        root: the repository, or the file of a single model.
        model_name: the name of the single model in `root`; empty if `root` is a directory of models.

    Raises:
        FailedPrecondition: `root` can't be listed; or it is a bare model without a name, or a name is given and it isn't one.
    """
    if root.is_file():
        return {_named(model_name, root): ModelFiles(root.parent, {1: root.parent}, file=root.name)}
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise FailedPrecondition(f"the model repository {root} cannot be listed: {error.strerror}") from None
    if any(path.name == MODEL_FILE for path in entries):
        return {_named(model_name, root): ModelFiles(root, {1: root})}
    if versions := _versions(entries):
        return {_named(model_name, root): ModelFiles(root, versions)}
    if model_name:
        raise FailedPrecondition(
            f"--model-name is given, but {root} holds neither a model.onnx nor a version directory{_hint(_onnx_files(entries))}"
        )
    return {path.name: _model_files(path) for path in entries if path.is_dir() and _may_be_model(path.name)}


def why_empty(root: Path) -> str:
    """What a repository without models has instead, and what it should have."""
    files = _onnx_files(sorted(root.iterdir()))
    return f"expected <model>/<version>/{MODEL_FILE} in it{_hint(files)}"


def located(directory: Path, file: str) -> Path:
    """Where the file of a model is in a version's directory: there, or in a directory of its own name."""
    path = directory / file
    return path / MODEL_FILE if path.is_dir() else path


def model_path(directory: Path, file: str) -> Path:
    """The file of a model in a version's directory.

    Raises:
        FailedPrecondition: it isn't there, or isn't a regular file. Whose it is `require_own_files` has checked.
    """
    path = located(directory, file)
    name = path.relative_to(directory)
    if not path.exists():
        raise FailedPrecondition(f"there is no {name} in version directory '{directory.name}'{_instead(path.parent)}")
    if not path.is_file():
        raise FailedPrecondition(f"{name} is not a regular file")
    return path


def require_own_files(files: ModelFiles, version: int | None = None, *, follow_links: bool = False) -> None:
    """Returns if everything that may be read of a model is its own.

    Whoever writes a model's files may not be allowed to read what a link in it names, and clients may see what is read: labels
    are in answers. Links to the directories of models and versions belong to the repository's layout, and are followed; so is
    a repository that is a single file.

    Args:
        version: the version whose files are checked; None for those outside of version directories.
        follow_links: whether files may be links to files of others.

    Raises:
        FailedPrecondition: a file isn't; the text names it.
    """
    directory = files.directory if version is None else files.versions[version]
    homes = {files.directory.resolve(), directory.resolve()}
    found = (directory / name for name in _BESIDE_A_FILE) if files.file else _files_below(directory, version is None)
    for path in found:
        if not follow_links and not any(path.resolve().is_relative_to(home) for home in homes):
            raise FailedPrecondition(
                f"{path.relative_to(directory)} leads out of its model's directory; "
                "put a copy in its place, or start the server with --follow-links if you trust the link"
            )


def precision_of(directory: Path, file: str) -> str:
    """The precision of one of a version's files: what `model.json` says, else its name, else its weights, else `fp32`.

    Args:
        directory: the directory of the version.
        file: `model.onnx`, `model.fp16.onnx`.
    """
    stated = _stated_precision(directory / "model.json", file) or _precision_in_name(file)
    weights = None if stated else onnx_graph.weights_of(located(directory, file))
    return stated or (weights.precision if weights else "") or "fp32"


def _may_be_model(name: str) -> bool:
    return not name.startswith(".") and name not in _NO_MODELS


def _onnx_files(entries: list[Path]) -> list[Path]:
    return [path for path in entries if path.suffix.lower() == ".onnx" and path.name != MODEL_FILE and path.is_file()]


def _instead(directory: Path) -> str:
    """What a directory has in place of a model's file, and what to do with it; empty if it has nothing."""
    entries = sorted(path for path in directory.iterdir() if _may_be_model(path.name)) if directory.is_dir() else []
    if onnx := _onnx_files(entries):
        return f", but {onnx[0].name} is: rename it, or set default_model_filename in config.pbtxt"
    others = [path.name for path in entries if path.suffix.lower() in _OTHER_FORMATS]
    return f", but {others[0]} is: {_OTHER_FORMATS[Path(others[0]).suffix.lower()]}" if others else ""


def _hint(files: list[Path]) -> str:
    """How to serve a model file that isn't where one is looked for."""
    return f"; to serve {files[0].name}: {_serve_command(files[0])}" if files else ""


def _serve_command(file: Path) -> str:
    return f"turnout-server --model-repository {shlex.quote(str(file))} --model-name {shlex.quote(file.name.partition('.')[0])}"


def _model_files(directory: Path) -> ModelFiles:
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        return ModelFiles(directory, error=f"its directory cannot be listed: {error.strerror}")
    versions, files = _versions(entries), [path for path in entries if path.suffix == ".onnx"]
    if files and not versions:
        return ModelFiles(directory, error=f"{files[0].name} must be in a version directory: move it to 1/{MODEL_FILE}")
    nearly = tuple(path.name for path in entries if _NEARLY_A_VERSION.fullmatch(path.name) and path not in versions.values())
    return ModelFiles(directory, versions, nearly_versions=nearly)


def _versions(entries: list[Path]) -> dict[int, Path]:
    """Version directories: those named by a positive decimal number without leading zeros."""
    names = {path.name: path for path in entries if path.is_dir()}
    numbers = [int(name) for name in names if _is_version(name)]
    return {number: names[str(number)] for number in sorted(numbers)}


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _files_below(directory: Path, but_versions: bool) -> Iterator[Path]:
    """The files below a directory, and the links to directories in it."""
    for parent, folders, files in os.walk(directory):
        if but_versions and Path(parent) == directory:
            folders[:] = [name for name in folders if not _is_version(name)]
        yield from (Path(parent) / name for name in [*folders, *files] if name in files or (Path(parent) / name).is_symlink())


def _named(model_name: str, root: Path) -> str:
    """The name of a bare model.

    Raises:
        FailedPrecondition: it is empty.
    """
    if model_name:
        return model_name
    if not root.is_file():
        raise FailedPrecondition(
            f"{root} is one bare model, not a directory of models; say what it is called with --model-name"
        )
    name, file = shlex.quote(root.name.partition(".")[0]), shlex.quote(str(root))
    raise FailedPrecondition(
        f"{root} is one file, not a directory of models. To serve it:\n"
        f"  {_serve_command(root)}\n"
        f"or make a directory of models of it, which can hold more:\n"
        f"  mkdir -p models/{name}/1 && cp {file} models/{name}/1/{MODEL_FILE} && turnout-server --model-repository models"
    )


def _regular_files(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(path for path in directory.rglob(pattern) if path.is_file())
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
        precision = json.loads(regular(manifest).read_text(encoding="utf-8"))["files"][file]["precision"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, FailedPrecondition):
        return ""
    return precision if isinstance(precision, str) else ""


def _precision_in_name(file: str) -> str:
    parts = file.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "model" and parts[2] == "onnx" else ""
