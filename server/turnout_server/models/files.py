"""Where the files of a model repository lie.

Usually `<root>/<model>/<version>/model.onnx` with `<root>/<model>/config.pbtxt`. A root that is itself one model, as KServe
mounts it (`/mnt/models/model.onnx`, or `/mnt/models/1/model.onnx`), is served under a name that the operator gives.
"""

from dataclasses import dataclass
from pathlib import Path

from turnout_server.core.errors import FailedPrecondition


@dataclass(frozen=True)
class ModelFiles:
    """One model's directory, and the directory of each of its versions by number."""

    directory: Path
    versions: dict[int, Path]

    def fingerprint(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a file of the model does: (path, modification time in ns, bytes) of each."""
        paths = [self.directory / "config.pbtxt"]
        for version in self.versions.values():
            paths += sorted(path for path in version.iterdir() if path.is_file())
        stats = [(path, path.stat()) for path in paths if path.exists()]
        return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def find_models(root: Path, model_name: str) -> dict[str, ModelFiles]:
    """The models below `root`, by name.

    Args:
        model_name: the name of the model that `root` itself is; empty where it is a directory of models.

    Raises:
        FailedPrecondition: `root` is a bare model and nobody said what it is called, or the reverse.
    """
    if (root / "model.onnx").exists():
        return {_named(model_name, root): ModelFiles(root, {1: root})}
    if versions := _versions(root):
        return {_named(model_name, root): ModelFiles(root, versions)}
    if model_name:
        raise FailedPrecondition(f"--model-name is given, but {root} holds neither a model.onnx nor a version directory")
    directories = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {path.name: ModelFiles(path, _versions(path)) for path in directories}


def _named(model_name: str, root: Path) -> str:
    if not model_name:
        raise FailedPrecondition(
            f"{root} is one bare model, not a directory of models; say what it is called with --model-name"
        )
    return model_name


def _versions(directory: Path) -> dict[int, Path]:
    """Version directories: those named by a positive decimal number without leading zeros."""
    names = [path.name for path in directory.iterdir() if path.is_dir()]
    numbers = [int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0")]
    return {number: directory / str(number) for number in sorted(numbers)}
