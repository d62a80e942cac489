"""The address that a server listens on: a host with a port, or a unix socket; and why one can't be had.

gRPC's names: https://github.com/grpc/grpc/blob/master/doc/naming.md
"""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

#: A host that begins like this is the path of a unix socket.
UNIX = "unix:"
#: Every address of the machine, of either version of the protocol.
EVERY_IPV6 = "::"
#: The longest path of a unix socket; macOS has 103 (unix(7), "sun_path").
MAX_PATH_BYTES = 107

#: What gRPC's texts don't say of an error, for people.
_REASONS = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 means all that it has, and :: those of IPv6, too",
    errno.EAFNOSUPPORT: "this machine has no IPv6",
}


def checked_host(host: str) -> str:
    """A host as it is used here: without the brackets of IPv6, and with one way to write a unix socket.

    Raises:
        ValueError: it is something else; the text says what to write.
    """
    if host.startswith(UNIX):
        path = host.removeprefix(UNIX)
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path or path.startswith("//"):
            raise ValueError("a unix socket is written as unix:/run/turnout.sock")
        return f"{UNIX}{path}"
    if not host.strip():
        raise ValueError("it is empty; 0.0.0.0 means every interface, and :: those of IPv6, too")
    if "://" in host:
        raise ValueError("it is a URL; give the name or the address alone, such as 0.0.0.0")
    bare = host.removeprefix("[").removesuffix("]") if host.endswith("]") else host
    if ":" not in bare:
        return bare
    if bare.count(":") == 1 or bare.startswith("["):
        raise ValueError("the port has a setting of its own, --grpc-port")
    try:
        ipaddress.IPv6Address(bare)
    except ValueError:
        raise ValueError("it is neither a name nor an address; IPv6 is written as ::1") from None
    return bare


def is_unix(host: str) -> bool:
    """Whether a host is a unix socket."""
    return host.startswith(UNIX)


def target(host: str, port: int) -> str:
    """What gRPC calls an address: `127.0.0.1:8001`, `[::1]:8001`, `unix:/run/turnout.sock`.

    Args:
        host: as `checked_host` returns it.
    """
    if is_unix(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_free(address: str, *, shared: bool = False) -> None:
    """Returns if a server can listen on an address.

    gRPC would only log why it can't, and it would take a unix socket away from the process that listens on it.

    Args:
        address: as `target` returns it.
        shared: whether the port may be shared with other processes (SO_REUSEPORT).

    Raises:
        OSError: it can't; the text says why.
    """
    try:
        if is_unix(address):
            _require_socket(Path(address.removeprefix(UNIX)))
        else:
            host, _, port = address.rpartition(":")
            _require_port(host.removeprefix("[").removesuffix("]"), int(port), shared)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {_reason(error, address)}") from None


def may_share(options: Sequence[tuple[str, Any]]) -> bool:
    """Whether gRPC's channel arguments let several processes share a port, which is gRPC's default."""
    return bool(dict(options).get("grpc.so_reuseport", 1))


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The family and the address of a host for a plain socket; of a name that has several, an IPv4 address.

    Raises:
        OSError: the name doesn't resolve.
    """
    found = _found(host, port)
    family, address = next((each for each in found if each[0] == socket.AF_INET), found[0])
    if host == EVERY_IPV6 and not _exists(family):  # gRPC does the same
        return socket.AF_INET, ("0.0.0.0", port)
    return family, address


def listens_to_both(listener: socket.socket) -> None:
    """Lets a socket on every IPv6 address take IPv4, too, whatever the system's default is."""
    if listener.family == socket.AF_INET6:
        with suppress(OSError):
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)


def _found(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # no other families are asked for


def _exists(family: socket.AddressFamily) -> bool:
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _require_port(host: str, port: int, shared: bool) -> None:
    """Raises OSError if a port can't be bound; if a name has several addresses, unless one can be and none is taken."""
    errors: list[OSError] = []
    found = [resolve(host, port)] if host == EVERY_IPV6 else _found(host, port)
    for family, address in found:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as listener:
                if os.name == "posix":  # on Windows it takes the port away from who has it
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if shared and hasattr(socket, "SO_REUSEPORT"):
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listens_to_both(listener)
                listener.bind(address)
                listener.listen()  # on Linux, only this fails where another process listens
        except OSError as error:
            errors.append(error)
    taken = [error for error in errors if error.errno == errno.EADDRINUSE]
    if taken or len(errors) == len(found):
        raise (taken or errors)[0]


def _require_socket(path: Path) -> None:
    """Raises OSError if a unix socket can't be made; one that nobody listens on any more may be replaced."""
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("this system has no unix sockets")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise OSError(f"the path has more than {MAX_PATH_BYTES} bytes")
    if not path.parent.is_dir():
        raise OSError(f"there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(f"this user may not write into {path.parent}")
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError("there is a file of that name, and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError("another process listens there; stop it, or choose another path")


def _reason(error: OSError, address: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name doesn't resolve: {error.strerror}"
    if error.errno == errno.EACCES:
        port = address.rpartition(":")[2]
        return f"port {port} is for privileged processes; choose one above 1023, or give this one CAP_NET_BIND_SERVICE"
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)
