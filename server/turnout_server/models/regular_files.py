"""Refuses what only looks like a file: opening a pipe waits for its other end, for ever if there is none."""

import stat
from pathlib import Path

from turnout_server.core.errors import FailedPrecondition


def regular(path: Path) -> Path:
    """The same path; also if there is nothing at it.

    Raises:
        FailedPrecondition: it is a pipe, a device, a socket or a directory.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # whoever opens it says it better
        return path
    if not stat.S_ISREG(mode):
        raise FailedPrecondition(f"{path.name} is not a regular file")
    return path
