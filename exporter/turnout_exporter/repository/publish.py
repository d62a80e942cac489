"""Writes a version into the repository atomically: it is there completely and on disk, or not at all."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from turnout_proto.model_config_pb2 import ModelConfig

from turnout_exporter.errors import PublishError, SpecError
from turnout_exporter.repository import modelconfig
from turnout_exporter.repository.modelconfig import CONFIG_FILE, LABELS_FILE

_NAME_CHARACTERS = 255


@dataclass(frozen=True)
class Destination:
    """Where a version is published.

    Attributes:
        force: whether existing files may be replaced.
    """

    repository: Path
    name: str
    version: int
    force: bool

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise SpecError(f"model name {self.name!r}: use letters, digits, '.', '_' and '-', a letter or digit first")
        if len(self.name) > _NAME_CHARACTERS:
            raise SpecError(f"the model name has {len(self.name)} characters; a folder's name may have {_NAME_CHARACTERS}")

    @property
    def model(self) -> Path:
        return self.repository / self.name

    @property
    def directory(self) -> Path:
        return self.model / str(self.version)

    def check_free(self) -> None:
        """Checks before the export what `publish` checks after it.

        Raises:
            PublishError: the version exists and may not be replaced.
        """
        if self.directory.exists() and not self.force:
            raise PublishError(
                f"{self.directory} exists: publish beside it with --version {self._next_version()}, or replace it with --force"
            )

    def _next_version(self) -> int:
        return 1 + max(int(entry.name) for entry in self.model.iterdir() if entry.name.isdecimal())


def check_fits(config: ModelConfig, labels: Sequence[str], destination: Destination) -> None:
    """Checks before the export what `publish` checks after it.

    Raises:
        PublishError: the files beside the versions can't be read, or don't fit.
    """
    _shared_files(config, labels, destination)


def publish(files: Path, config: ModelConfig, labels: Sequence[str], destination: Destination) -> None:
    """Moves a folder of files into the repository as the version, with the files that all versions share.

    Args:
        files: a folder in a workspace of the same repository.

    Raises:
        PublishError: the version exists, the shared files don't fit it, or the disk is full; nothing was published.
    """
    destination.check_free()
    shared = _shared_files(config, labels, destination)
    try:
        staging = files.parent / "staging"
        _stage(files, shared, staging, destination)
        _move_in(shared, staging, destination)
    except OSError as error:
        raise PublishError(f"can't publish to {destination.directory}: {error}") from error


def _shared_files(config: ModelConfig, labels: Sequence[str], destination: Destination) -> dict[str, str]:
    """The files beside the versions that must be written; empty if the existing ones fit."""
    labels_text = "".join(f"{label}\n" for label in labels)
    wanted = {CONFIG_FILE: modelconfig.to_text(config)} | ({LABELS_FILE: labels_text} if labels else {})
    if not (destination.model / CONFIG_FILE).exists():
        return wanted
    current = modelconfig.read(destination.model / CONFIG_FILE)
    conflicts = modelconfig.conflicts(current, config)
    if labels and not _holds(destination.model / LABELS_FILE, labels_text):
        conflicts.append(f"the labels aren't those in {LABELS_FILE}")
    if not conflicts:
        return {}
    if not destination.force:
        raise PublishError(
            f"{destination.model / CONFIG_FILE} speaks for every version, and version {destination.version} doesn't fit it: "
            f"{'; '.join(conflicts)}. Publish under another --name, or rewrite it with --force"
        )
    return wanted | {CONFIG_FILE: modelconfig.to_text(modelconfig.merge(current, config))}


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _stage(files: Path, shared: dict[str, str], staging: Path, destination: Destination) -> None:
    """Writes the model's folder to `staging` and waits until it is on disk."""
    model = staging / destination.name
    model.mkdir(parents=True)
    os.rename(files, model / str(destination.version))
    for name, text in shared.items():
        (model / name).write_text(text, encoding="utf-8")
    for path in (*model.rglob("*"), model):
        _sync(path)


def _move_in(shared: dict[str, str], staging: Path, destination: Destination) -> None:
    staged = staging / destination.name
    if not destination.model.exists():
        os.rename(staged, destination.model)
        _sync(destination.repository)
        return
    for name in shared:
        os.replace(staged / name, destination.model / name)
    _replace_version(staged / str(destination.version), staging / "replaced", destination.directory)
    _sync(destination.model)


def _replace_version(new: Path, old: Path, target: Path) -> None:
    """Renames `new` to `target`; an existing `target` is moved to `old`, and back if the renaming fails."""
    if not target.exists():
        os.rename(new, target)
        return
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no directories
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
