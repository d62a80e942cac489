"""Addresses are read as people write them, and what can't be listened on is said with its reason."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from turnout_server.transport.addresses import checked_host, may_share, require_free, resolve, target

from tests.servers import IPV6


@pytest.mark.parametrize(
    ("written", "host", "name"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:8001"),
        ("localhost", "localhost", "localhost:8001"),
        ("::", "::", "[::]:8001"),
        ("[::]", "::", "[::]:8001"),
        ("::1", "::1", "[::1]:8001"),
        ("[fe80::1%eth0]", "fe80::1%eth0", "[fe80::1%eth0]:8001"),
        ("unix:/run/a.sock", "unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:///run/a.sock", "unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:a.sock", "unix:a.sock", "unix:a.sock"),
    ],
)
def test_a_host_has_one_name_however_it_is_written(written: str, host: str, name: str) -> None:
    assert (checked_host(written), target(checked_host(written), 8001)) == (host, name)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("http://0.0.0.0", "it is a URL"),
        ("grpc://[::1]:8001", "it is a URL"),
        ("0.0.0.0:8001", "--grpc-port"),
        ("[::1]:8001", "--grpc-port"),
        ("::1::2", "neither a name nor an address"),
        ("[12345::]", "neither a name nor an address"),
        ("unix:", "unix:/run/turnout.sock"),
        ("unix://run/turnout.sock", "unix:/run/turnout.sock"),
    ],
)
def test_what_is_no_host_is_refused_with_what_to_write(written: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        checked_host(written)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=IPV6), "::", "0.0.0.0", "localhost"])
def test_a_free_port_may_be_listened_on(host: str) -> None:
    require_free(target(host, 0))


@pytest.fixture(params=["127.0.0.1", pytest.param("::1", marks=IPV6)])
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A host and a port that something listens on."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as server:
        yield request.param, server.getsockname()[1]


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_that_another_process_has_is_taken(taken: tuple[str, int], shared: bool) -> None:
    with pytest.raises(OSError, match="another process listens there") as caught:
        require_free(target(*taken), shared=shared)
    assert str(caught.value).startswith(f"cannot listen on {target(*taken)}: ")


def test_a_name_is_taken_if_one_of_its_addresses_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError, match="another process"):
        require_free(target("localhost", server.getsockname()[1]))


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.1", "this machine has no such address"),
        pytest.param("2001:db8::1", "this machine has no such address", marks=IPV6),
    ],
)
def test_an_address_of_another_machine_is_called_that(host: str, text: str) -> None:
    with pytest.raises(OSError, match=text):
        require_free(target(host, 0))


def failing(error: OSError) -> object:
    def bind(self: socket.socket, address: object) -> None:
        raise error

    return bind


def test_a_port_for_privileged_processes_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "bind", failing(PermissionError(13, "Permission denied")))
    with pytest.raises(OSError, match="port 80 is for privileged processes; choose one above 1023"):
        require_free("127.0.0.1:80")


def test_a_name_that_nobody_knows_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="cannot listen on nowhere:8001: the name doesn't resolve: Name or service not known"):
        require_free("nowhere:8001")


def test_a_machine_without_ipv6_listens_on_ipv4_for_every_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *others: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return plain(family, *others)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    assert resolve("::", 8002) == (socket.AF_INET, ("0.0.0.0", 8002))
    require_free("[::]:0")
    with pytest.raises(OSError, match="this machine has no IPv6"):
        require_free("[::1]:0")


def test_a_name_with_several_addresses_is_its_ipv4_address() -> None:
    assert resolve("localhost", 8002) == (socket.AF_INET, ("127.0.0.1", 8002))


def test_a_unix_socket_that_somebody_listens_on_is_taken_and_one_that_was_left_behind_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    require_free(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(OSError, match="another process listens there"):
            require_free(f"unix:{path}")
    assert path.is_socket()
    require_free(f"unix:{path}")


@pytest.mark.parametrize(
    ("name", "text"),
    [("none/s", "there is no directory"), ("x" * 120, "more than 107 bytes"), ("file", "it is no socket")],
)
def test_a_path_that_cannot_be_a_socket_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=text):
        require_free(f"unix:{tmp_path / name}")


@pytest.mark.parametrize(
    ("options", "shares"), [([], True), ([("grpc.so_reuseport", 0)], False), ([("grpc.so_reuseport", 1)], True)]
)
def test_a_port_is_shared_if_grpc_shares_it(options: list[tuple[str, int]], shares: bool) -> None:
    assert may_share(options) is shares
