"""Commands that behave alike: how they print errors, suggest what was meant, and name their version."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import click

from turnout_cli import installation

F = TypeVar("F", bound=Callable[..., Any] | click.Command)

#: For every command: `-h` is `--help`.
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def version_option(command: F) -> F:
    """Adds `--version` to a command."""
    return click.version_option(installation.version(), message="%(prog)s %(version)s")(command)


def require(name: str, needed: Mapping[str, str]) -> None:
    """Ends the process, with what to install, if a package is missing that a command needs.

    `--version` alone is answered in any case.

    Args:
        name: of the command.
        needed: the extra that brings each package.
    """
    if sys.argv[1:] == ["--version"]:
        print(name, installation.version())
        sys.exit(0)
    if (text := installation.missing(needed)) is not None:
        sys.exit(fail(name, text, 1))


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and ends the process with its status.

    Errors are lines on stderr that begin with the command's name. The status is 2 for a mistake in the arguments, and 130
    after Ctrl-C.

    Args:
        name: the name of the command in help and errors.
        arguments: those after the name; None for the process's own.
    """
    _name_values(command)
    try:
        status = command.main(None if arguments is None else list(arguments), prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        sys.exit(fail(name, text_of(error), error.exit_code))
    except click.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _name_values(command: click.Command) -> None:
    """Gives the values of options names for people, where their command doesn't: `N` for INTEGER RANGE, `HOST` for TEXT."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.metavar is None and not parameter.is_flag:
            parameter.metavar = _metavar(parameter)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _name_values(inner)


def _metavar(option: click.Option) -> str | None:
    """The name of an option's value; None leaves it to click, which lists choices."""
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
        return "N"
    if isinstance(option.type, click.types.StringParamType):
        return max(option.opts, key=len).lstrip("-").replace("-", "_").upper()
    if isinstance(option.type, click.Path):
        return "DIR" if not option.type.file_okay else "FILE" if not option.type.dir_okay else "PATH"
    return None


def text_of(error: click.ClickException) -> str:
    """The text of an error: what was probably meant, if there is such a name, and where to read on."""
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand):
        meant = f"; did you mean '{error.possibilities[0]}'?" if error.possibilities else ""
        text = f"{error.message.removesuffix('.')}{meant}"
    else:
        text = error.format_message().removesuffix(".")
    text = text[:1].lower() + text[1:]
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return text
    return f"{text}{'' if text.endswith('?') else ';'} see {error.ctx.command_path} --help"


def fail(name: str, text: str, status: int) -> int:
    """Prints an error on stderr, each line with the command's name; returns the status."""
    for line in text.splitlines():
        print(f"{name}: {line}", file=sys.stderr)
    return status
