"""The command `turnout-server` and its subcommands."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from turnout_cli import family

from turnout_server.cli.doctor.command import doctor
from turnout_server.cli.explain.command import explain
from turnout_server.cli.flags import serve_hint
from turnout_server.cli.health import health
from turnout_server.cli.serve import serve
from turnout_server.cli.top.command import top
from turnout_server.settings_sources import UsageError

NAME = "turnout-server"


class _Commands(click.Group):
    """Subcommands, of which `serve` may be left out: `turnout-server --model-repository models` serves, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        serves = not args or (args[0].startswith("-") and args[0] not in own)
        return super().parse_args(ctx, ["serve", *args] if serves else args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and Path(args[0]).exists():
            raise click.UsageError(serve_hint(args[0]), ctx)
        return super().resolve_command(ctx, args)


@family.version_option
@click.group(cls=_Commands, context_settings=family.SETTINGS)
def commands() -> None:
    """Serve ONNX models over gRPC; every request chooses its device.

    `turnout-server --model-repository DIR`, without a command, serves, too.
    """


commands.add_command(serve)
commands.add_command(doctor)
commands.add_command(explain)
commands.add_command(health)
commands.add_command(top)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process."""
    try:
        family.run(commands, NAME, arguments)
    except UsageError as error:
        sys.exit(family.fail(NAME, str(error), 2))


if __name__ == "__main__":
    main()
