"""Finds the server that runs in this container or on this machine, and asks its monitoring port."""

import http.client
from collections.abc import Sequence
from pathlib import Path

from turnout_server import settings_sources
from turnout_server.cli.flags import parsed
from turnout_server.settings import DoctorSettings
from turnout_server.settings_sources import UsageError

FIRST_PROCESS = Path("/proc/1/cmdline")
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


class NoAnswer(Exception):
    """No server answers; the text says where, and why."""


def address_of(flags: Sequence[str], first_process: Path = FIRST_PROCESS) -> str:
    """HOST:PORT at which the server is monitored.

    They come from these flags of the server, else from those of process 1 if that is turnout-server, as in a container; then
    from the environment and the --config file, like the server's own settings.

    Args:
        first_process: the file with the command line of process 1.

    Raises:
        UsageError: a setting is wrong, or the server picks a free port.
        click.UsageError: the flags aren't the server's.
    """
    settings = settings_sources.read(parsed(flags or flags_of(first_process)), DoctorSettings)
    if not settings.metrics_port:
        raise UsageError("--metrics-port=0 lets the server pick a free port, which can't be known here; give it a number")
    host = settings.monitoring_host.strip("[]")
    host = _LOOPBACK.get(host, host)
    return f"[{host}]:{settings.metrics_port}" if ":" in host else f"{host}:{settings.metrics_port}"


def flags_of(process: Path) -> list[str]:
    """The flags of a running turnout-server, from its command line; empty if the process is something else.

    An init process such as tini has the command line of what it started at the end of its own.
    """
    try:
        words = process.read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
    commands = (at for at, word in enumerate(words) if Path(word).name in ("turnout-server", "turnout_server"))
    start = next(commands, None)
    return [] if start is None else [word for word in words[start + 1 :] if word != "serve"]


#: Most likely the gRPC port was given.
NOT_HTTP = "what answers on {address} isn't HTTP: give the metrics port, 8002 unless it was set, rather than the gRPC port"


def is_not_http(error: Exception) -> bool:
    """Whether a server answered, but not in HTTP. One that closes the connection without a word hasn't answered."""
    return isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected)


def fetch(address: str, path: str, timeout_s: float) -> tuple[int, str]:
    """The status and the text with which the server at HOST:PORT answers.

    Raises:
        OSError, HTTPException: it doesn't, or not in this time, or not in HTTP.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def get(address: str, path: str, timeout_s: float) -> tuple[int, str]:
    """The status and the text with which the server at HOST:PORT answers.

    Raises:
        NoAnswer: it doesn't, or not in this time.
    """
    try:
        return fetch(address, path, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        if is_not_http(error):
            raise NoAnswer(NOT_HTTP.format(address=address)) from None
        raise NoAnswer(f"no server answers on {address}: {error or type(error).__name__}") from None
