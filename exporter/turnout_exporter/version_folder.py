"""A version that was published: what its `model.json` says, and whether its files are still what they were."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout_exporter.errors import PublishError
from turnout_exporter.repository.manifest import MANIFEST_FILE, SCHEMA_VERSION, sha256
from turnout_exporter.spec.datatypes import BY_NAME

_DEFAULT_TOLERANCE = 0.01


@dataclass(frozen=True)
class VersionFolder:
    """A folder with a `model.json`."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> "VersionFolder":
        """The version in a folder; also the only one of a model's folder.

        Raises:
            PublishError: there is none that can be read.
        """
        versions = [entry for entry in path.iterdir() if (entry / MANIFEST_FILE).is_file()]
        if not (path / MANIFEST_FILE).is_file():
            if len(versions) != 1:
                found = ", ".join(sorted(str(version) for version in versions))
                raise PublishError(f"{path} has no {MANIFEST_FILE}" + (f"; choose one of {found}" if found else ""))
            path = versions[0]
        try:
            manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
            if manifest["schema_version"] > SCHEMA_VERSION:
                raise PublishError(
                    f"{path / MANIFEST_FILE} was written by a newer exporter (schema {manifest['schema_version']})"
                )
            folder = cls(path, manifest)
            _ = folder.inputs, folder.models, folder.hashes  # all that is read of it later
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PublishError(f"{path / MANIFEST_FILE} can't be read: {type(error).__name__}: {error}") from error
        return folder

    @property
    def models(self) -> dict[str, float]:
        """The ONNX files by name, with the tolerance of each."""
        files = self.manifest["files"].items()
        return {name: entry.get("tolerance", _DEFAULT_TOLERANCE) for name, entry in files if name.endswith(".onnx")}

    @property
    def inputs(self) -> list[str]:
        """`--input` texts of the inputs, without values."""
        return [
            f"{spec['name']}={BY_NAME[spec['datatype']].spelling}[{','.join(map(str, spec['shape']))}]"
            for spec in self.manifest["inputs"]
        ]

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {name: entry["sha256"] for name, entry in self.manifest["files"].items()}

    def changed_files(self) -> list[str]:
        """What is wrong with the files that the manifest names."""
        problems = []
        for name, expected in self.hashes.items():
            file = self.path / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif sha256(file) != expected:
                problems.append(f"{name} isn't the file that was published: its SHA-256 is another one")
        return problems
