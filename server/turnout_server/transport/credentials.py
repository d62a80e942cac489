"""TLS for the gRPC port: the server's certificate and key, and the authority of its clients' certificates.

The files are read again when they change; gRPC asks for the certificate at each new connection, so a renewed one holds from
the next connection on.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from turnout_server.core.watched_files import WatchedFiles


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: the server's, followed by those of intermediate authorities.
        key: the certificate's private key, not encrypted.
        client_ca: the authorities whose clients are let in; None to let everybody in.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


class TlsCredentials:
    """Credentials of a server that follow their files.

    Attributes:
        files: what a Watcher keeps current.
        credentials: for a transport.

    Raises:
        ValueError: the files can't be used; the text names the file and the reason.
    """

    def __init__(self, files: TlsFiles) -> None:
        try:
            self.files = WatchedFiles(files.paths, lambda: _read(files), "TLS certificates")
        except OSError as error:
            raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None
        self._given = self.files.value
        renewed: Any = self._renewed  # the stubs don't know that it may return None
        self.credentials = grpc.dynamic_ssl_server_credentials(self._given, renewed, files.client_ca is not None)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration for the next connection; None if gRPC has it already. Called by gRPC's threads."""
        current = self.files.value
        if current is self._given:
            return None
        self._given = current
        return current


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """What gRPC needs, after a check: gRPC itself wouldn't say what is wrong with a file."""
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    roots = None if files.client_ca is None else files.client_ca.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"{files.certificate} and {files.key} are no certificate and its key: {_reason(error)}") from None
    if roots is not None:
        try:
            context.load_verify_locations(cadata=roots.decode("ascii", errors="ignore"))
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"{files.client_ca} has no certificates in PEM: {error}") from None
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one without a password, readable by the server only")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not in PEM format").replace("_", " ").lower()
