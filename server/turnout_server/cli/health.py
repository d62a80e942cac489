"""`turnout-server health`: whether the server in this container, or on this machine, is ready."""

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

from turnout_server import settings_sources
from turnout_server.settings_sources import UsageError

_USAGE = """\
usage: turnout-server health [the server's flags]

Prints whether the server is ready. Its port and address come from the flags given here, else from those of process 1 if that
is turnout-server, as in a container; then from the environment and the --config file, like the server's own settings.
Exit status: 0 if it is ready, 1 if not.
"""
#: Longer than the container engines' customary limit of 3 s would be of no use.
_TIMEOUT_S = 2.5
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def main(arguments: Sequence[str], first_process: Path = Path("/proc/1/cmdline")) -> int:
    """Prints the server's readiness on one line; returns 0 if it is ready, else 1.

    Nothing else is returned and nothing raised, because Docker reserves the other statuses of a health check.

    Args:
        first_process: the file with the command line of process 1.
    """
    if {"-h", "--help"} & set(arguments):
        print(_USAGE, end="")
        return 0
    try:
        text, ready = _readiness(*_address(arguments or flags_of(first_process)))
    except UsageError as error:
        text, ready = str(error), False
    except SystemExit:  # argparse has said what is wrong
        return 1
    print(text, file=sys.stdout if ready else sys.stderr)
    return 0 if ready else 1


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


def _address(flags: Sequence[str]) -> tuple[str, int]:
    """Where the server with these flags is monitored.

    Raises:
        UsageError: a setting is wrong, or the server picks a free port.
    """
    settings = settings_sources.read_for_doctor(flags)
    if not settings.metrics_port:
        raise UsageError("--metrics-port=0 lets the server pick a free port, which can't be known here; give it a number")
    host = settings.host.strip("[]")
    return _LOOPBACK.get(host, host), settings.metrics_port


def _readiness(host: str, port: int) -> tuple[str, bool]:
    """What the server says of itself, and whether it is ready."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.read(200).decode(errors="replace").strip(), answer.status == http.client.OK
    except (OSError, http.client.HTTPException) as error:
        return f"no server answers on {shown}: {error or type(error).__name__}", False
    finally:
        connection.close()
