"""`turnout-server health`: whether the server in this container, or on this machine, is ready."""

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

from turnout_server.cli import running_server
from turnout_server.cli.running_server import NoAnswer
from turnout_server.settings_sources import UsageError

_USAGE = """\
usage: turnout-server health [the server's flags]

Prints whether the server is ready. Its port and address come from the flags given here, else from those of process 1 if that
is turnout-server, as in a container; then from the environment and the --config file, like the server's own settings.
Exit status: 0 if it is ready, 1 if not.
"""
#: Longer than the container engines' customary limit of 3 s would be of no use.
_TIMEOUT_S = 2.5


def main(arguments: Sequence[str], first_process: Path = running_server.FIRST_PROCESS) -> int:
    """Prints the server's readiness on one line; returns 0 if it is ready, else 1.

    Nothing else is returned and nothing raised, because Docker reserves the other statuses of a health check.

    Args:
        first_process: the file with the command line of process 1.
    """
    if {"-h", "--help"} & set(arguments):
        print(_USAGE, end="")
        return 0
    try:
        status, text = running_server.get(running_server.address_of(arguments, first_process), "/readyz", _TIMEOUT_S)
    except (UsageError, NoAnswer) as error:
        status, text = 0, str(error)
    except SystemExit:  # argparse has said what is wrong
        return 1
    ready = status == http.client.OK
    print(text[:200].strip(), file=sys.stdout if ready else sys.stderr)
    return 0 if ready else 1
