"""TLS over real connections, on every transport: who is let in, and what happens when files are renewed."""

import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from turnout_server.transport.credentials import TlsCredentials, TlsFiles
from turnout_server.transport.selection import Make

from tests.certificates import Authority
from tests.server.transport.test_transports import ask, echo, error_of, make, serving, unary

__all__ = ["make"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def asked(port: int, roots: Path, identity: tuple[Path, Path] | None = None, name: str = "localhost") -> str:
    """What a client that trusts these roots gets, over a new connection."""
    chain, key = (path.read_bytes() for path in identity) if identity else (None, None)
    trusting = grpc.ssl_channel_credentials(roots.read_bytes(), key, chain)
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    channel: Any
    with grpc.secure_channel(f"localhost:{port}", trusting, options) as channel:
        try:
            return ask(channel, "echo", timeout=5).decode()
        except grpc.RpcError as error:
            call: Any = error
            return str(call.code().name)


def test_only_clients_that_trust_the_certificate_and_find_their_host_in_it_connect(
    make: Make, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    tls = TlsCredentials(TlsFiles(*authority.issue("server")))
    with serving(make, unary(echo=echo), tls.credentials) as (transport, plain):
        assert asked(transport.port, authority.certificate) == "x"
        assert asked(transport.port, stranger.certificate) == "UNAVAILABLE"
        assert asked(transport.port, authority.certificate, name="other.example") == "UNAVAILABLE"
        assert error_of(ask, plain, "echo")[0] == "UNAVAILABLE"


def test_a_client_ca_lets_in_only_clients_with_its_certificates(make: Make, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    tls = TlsCredentials(TlsFiles(*authority.issue("server"), authority.certificate))
    with serving(make, unary(echo=echo), tls.credentials) as (transport, _):
        assert asked(transport.port, authority.certificate, authority.issue("client")) == "x"
        assert asked(transport.port, authority.certificate) == "UNAVAILABLE"
        assert asked(transport.port, authority.certificate, stranger.issue("intruder")) == "UNAVAILABLE"


def test_renewed_files_count_for_the_next_connection_and_leave_open_ones_alone(
    make: Make, authority: Authority, tmp_path: Path
) -> None:
    tls = TlsCredentials(TlsFiles(*authority.issue("server"), authority.certificate))
    client = authority.issue("client")
    with serving(make, unary(echo=echo), tls.credentials) as (transport, _):
        options = [("grpc.use_local_subchannel_pool", 1)]
        trusting = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *(p.read_bytes() for p in reversed(client)))
        earlier: Any
        with grpc.secure_channel(f"localhost:{transport.port}", trusting, options) as earlier:
            assert ask(earlier, "echo") == b"x"
            old = authority.certificate.read_bytes()
            renewed = Authority(tmp_path)  # the same file names
            renewed.issue("server")
            tls.files.look()
            assert asked(transport.port, renewed.certificate, renewed.issue("client")) == "x"
            (tmp_path / "old.pem").write_bytes(old)
            assert asked(transport.port, tmp_path / "old.pem", client) == "UNAVAILABLE"
            assert ask(earlier, "echo") == b"x"


def test_files_that_do_not_fit_leave_the_earlier_ones_in_force(
    make: Make, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = authority.issue("server")
    tls = TlsCredentials(TlsFiles(certificate, key))
    with serving(make, unary(echo=echo), tls.credentials) as (transport, _):
        certificate.write_bytes(authority.issue("other")[0].read_bytes())  # its key hasn't been written yet
        tls.files.look()
        assert "TLS certificates could not be renewed" in caplog.text
        assert asked(transport.port, authority.certificate) == "x"


@pytest.mark.parametrize(
    ("which", "content", "reason"),
    [
        ("certificate", b"", "are no certificate and its key"),
        ("certificate", b"\xff\x00", "are no certificate and its key"),
        ("key", b"nothing", "are no certificate and its key"),
        ("key", None, r"server\.key cannot be read: No such file"),
        ("certificate", None, r"server\.pem cannot be read: No such file"),
        ("client_ca", b"", "has no certificates in PEM"),
        ("client_ca", b"\xff", "has no certificates in PEM"),
    ],
)
def test_files_that_cannot_be_used_are_refused_with_the_file_and_the_reason(
    authority: Authority, tmp_path: Path, which: str, content: bytes | None, reason: str
) -> None:
    certificate, key = authority.issue("server")
    path = {"certificate": certificate, "key": key, "client_ca": tmp_path / "clients.pem"}[which]
    path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        TlsCredentials(TlsFiles(certificate, key, tmp_path / "clients.pem" if which == "client_ca" else None))


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    certificate, _ = authority.issue("server")
    _, key = authority.issue("other")
    with pytest.raises(ValueError, match="key values mismatch"):
        TlsCredentials(TlsFiles(certificate, key))


def test_an_encrypted_key_is_refused_without_asking_for_its_password(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:word", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with pytest.raises(ValueError, match="the key is encrypted"):
        TlsCredentials(TlsFiles(certificate, locked))
