"""Measured profiles on disk, so that the next start needn't measure again.

An entry belongs to one model file on one device under one ONNX Runtime with one set of options; its name is a hash of all of
that, so an entry for anything else is never read. What can't be read is measured anew.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from turnout_server.scheduling.profiles import Profile

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ProfileKey:
    """What a profile is true of."""

    model_sha256: str
    file: str
    device: str
    runtime: str
    options: str

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32] + ".json"


class ProfileStore:
    """Profiles below one directory; without a directory, or with one that can't be written, nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        try:
            if directory is not None:
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(error)

    @property
    def keeps(self) -> bool:
        """Whether anything that is saved will be found again."""
        return self._directory is not None

    def load(self, key: ProfileKey) -> Profile | None:
        """The profile that was saved for exactly this; None if there is none that can be read."""
        if self._directory is None:
            return None
        try:
            entry = json.loads((self._directory / key.name).read_text())
            if entry["schema_version"] != SCHEMA_VERSION or entry["key"] != asdict(key):
                return None
            return Profile.restored(entry["service_us"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, key: ProfileKey, profile: Profile) -> None:
        """Writes a profile, whole or not at all."""
        if self._directory is None:
            return
        entry = {"schema_version": SCHEMA_VERSION, "key": asdict(key), "service_us": profile.saved()}
        path = self._directory / key.name
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(json.dumps(entry, indent=1))
            temporary.replace(path)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning("profiles are not kept: %s cannot be written: %s", self._directory, error.strerror)
        self._directory = None


def sha256_of(path: Path) -> str:
    """Of a model's file and of its external data, if there is any."""
    digest = hashlib.sha256()
    for file in [path, *sorted(path.parent.glob(f"{path.name}.data*"))]:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
