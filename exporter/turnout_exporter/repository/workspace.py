"""Temporary folders of exports. They are in the repository, so that a version is published by one rename, without a copy.

An export holds the lock of its folder; a folder that nobody holds was left by one that was killed, and any other removes it. A
folder that was removed before its export held the lock is made again.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from turnout_exporter.errors import PublishError

_PREFIX = ".turnout-export-"  #: the leading dot keeps servers from treating it as a model
_LOCK = "lock"
_ATTEMPTS = 100


@contextmanager
def workspace(repository: Path) -> Iterator[Path]:
    """A temporary folder in the repository, which is created if it doesn't exist; both are removed again if nothing remains.

    Folders of earlier exports that were killed are removed as well.

    Raises:
        PublishError: the repository can't be written to.
    """
    created = [folder for folder in (repository, *repository.parents) if not folder.exists()]
    try:
        directory, lock = _make(repository)
    except OSError as error:
        raise PublishError(f"can't write to the repository {repository}: {error.strerror or error}") from error
    try:
        with lock:
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    finally:
        with suppress(OSError):  # another export may be using it by now
            for folder in created:
                folder.rmdir()


def _make(repository: Path) -> tuple[Path, TextIO]:
    """A new folder and its lock, which is held."""
    problem: OSError = FileNotFoundError(errno.ENOENT, "other exports keep removing it")
    for _ in range(_ATTEMPTS):
        try:
            repository.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(repository)
            directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=repository))
            lock = (directory / _LOCK).open("w")
        except (FileNotFoundError, FileExistsError) as error:  # another export removed the repository or the folder meanwhile
            problem = error
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_there(directory / _LOCK, lock):
            return directory, lock
        lock.close()
    raise problem


def _is_there(path: Path, file: TextIO) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


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
            with suppress(OSError):  # it isn't ours
                folder.rmdir()  # its export was killed before it made the lock, or makes it now and sees that it is gone
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # its export is running
        finally:
            os.close(descriptor)
