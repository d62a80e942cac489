"""Certificates for tests, made by openssl."""

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A certificate authority, whose files are in `directory`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        if not shutil.which("openssl"):
            pytest.skip("openssl, which creates the certificates, isn't installed")
        self._directory = directory
        self.certificate, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}", "-days", "2"
        )

    def issue(self, name: str, host: str = "localhost") -> tuple[Path, Path]:
        """The certificate and the key of `host`, in files of this name; overwrites earlier ones."""
        certificate, key, request = (self._directory / f"{name}{suffix}" for suffix in (".pem", ".key", ".csr"))
        names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
        _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, *names)
        signed = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-copy_extensions", "copyall", "-days", "2"]
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signed)
        return certificate, key


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
