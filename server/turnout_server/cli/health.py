"""`turnout-server health`: whether the server in this container, or on this machine, is ready."""

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from turnout_cli import family

from turnout_server.cli import running_server
from turnout_server.cli.running_server import NoAnswer
from turnout_server.settings_sources import UsageError

#: Longer than the container engines' customary limit of 3 s would be of no use.
_TIMEOUT_S = 2.5


@click.command(
    "health",
    context_settings={**family.SETTINGS, "ignore_unknown_options": True},
    short_help="Say whether a server is ready.",
    epilog="Exit status: 0 if it is ready, 1 if not.",
)
@click.argument("server_flags", nargs=-1, type=click.UNPROCESSED, metavar="[FLAGS OF THE SERVER]")
def health(server_flags: tuple[str, ...]) -> int:
    """Print whether the server is ready.

    Its port and address come from the flags given here, else from those of process 1 if that is turnout-server, as in a
    container; then from the environment and the --config file, like the server's own settings.
    """
    return main(server_flags)


def main(arguments: Sequence[str], first_process: Path = running_server.FIRST_PROCESS) -> int:
    """Prints the server's readiness on one line; returns 0 if it is ready, else 1.

    Nothing else is returned and nothing raised, because Docker reserves the other statuses of a health check.

    Args:
        first_process: the file with the command line of process 1.
    """
    try:
        status, text = running_server.get(running_server.address_of(arguments, first_process), "/readyz", _TIMEOUT_S)
    except (UsageError, NoAnswer) as error:
        status, text = 0, str(error)
    except click.ClickException as error:
        status, text = 0, family.text_of(error)
    ready = status == http.client.OK
    print(text[:200].strip(), file=sys.stdout if ready else sys.stderr)
    return 0 if ready else 1
