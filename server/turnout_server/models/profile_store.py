"""Measured profiles on disk, so that the next start needn't measure again.

An entry is valid for one model file, device, ONNX Runtime version and set of options; its file name is a hash of all of these,
so an entry for anything else is never read. An entry that can't be read is ignored, and its profile is measured again.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from turnout_server.devices.weight_files import WeightFiles
from turnout_server.scheduling.profiles import Profile

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ProfileKey:
    """What a profile was measured on."""

    model_sha256: str
    file: str
    device: str
    runtime: str
    options: str

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32] + ".json"


class ProfileStore:
    """Stores profiles in a directory; without one, or if it can't be written, nothing is stored."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        try:
            if directory is not None:
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._disable(error)

    @property
    def keeps(self) -> bool:
        """Whether saved profiles are stored."""
        return self._directory is not None

    def load(self, key: ProfileKey) -> Profile | None:
        """The profile that was saved under this key; None if there is none or it can't be read."""
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
        """Writes a profile atomically."""
        if self._directory is None:
            return
        entry = {"schema_version": SCHEMA_VERSION, "key": asdict(key), "service_us": profile.saved()}
        path = self._directory / key.name
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(json.dumps(entry, indent=1))
            temporary.replace(path)
        except OSError as error:
            self._disable(error)

    def _disable(self, error: OSError) -> None:
        logger.warning("profiles are not stored: %s cannot be written: %s", self._directory, error.strerror)
        self._directory = None


def sha256_of(path: Path) -> str:
    """The hash of a model's file and of its external data, if there is any."""
    digest = hashlib.sha256()
    for file in WeightFiles.of(path).paths:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
