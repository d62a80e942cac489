"""Temporary folders of exports. They are in the repository, so that a version is published by one rename, without a copy."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from turnout_exporter.errors import PublishError

_PREFIX = ".turnout-export-"  #: the leading dot keeps servers from treating it as a model
_LOCK = "lock"


@contextmanager
def workspace(repository: Path) -> Iterator[Path]:
    """A temporary folder in the repository, which is created if it doesn't exist; both are removed again if nothing remains.

    Folders of earlier exports that were killed are removed as well.

    Raises:
        PublishError: the repository can't be written to.
    """
    created = [folder for folder in (repository, *repository.parents) if not folder.exists()]
    try:
        repository.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(repository)
        directory = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=repository, ignore_cleanup_errors=True)
    except OSError as error:
        raise PublishError(f"can't write to the repository {repository}: {error.strerror or error}") from error
    try:
        with directory as path, (Path(path) / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(path)
    finally:
        for folder in created:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def check_space(directory: Path, needed_bytes: int) -> None:
    """Raises PublishError if the disk of a folder hasn't room for that many more bytes."""
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise PublishError(
            f"the export needs about {needed_bytes / 1e9:.1f} GB in the repository, and {free_bytes / 1e9:.1f} GB are free "
            f"there: make room, or choose another --repository"
        )


def _remove_abandoned(repository: Path) -> None:
    for folder in repository.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            continue  # it is being made, or isn't ours
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # its export is running
        finally:
            os.close(descriptor)
