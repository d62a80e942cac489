"""The settings as options of a command."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from turnout_server.settings import Settings
from turnout_server.settings_sources import flag_of

#: The sections of the help, by the first setting of each.
_SECTIONS = {
    "config": "Options",
    "model_repository": "Models",
    "host": "Network",
    "devices": "Devices and routing",
    "drain_delay_s": "Stopping and log",
}
#: What stands for the value in the help, for settings whose type or unit doesn't say.
_METAVARS = {
    "config": "FILE",
    "trace_file": "FILE",
    "model_name": "NAME",
    "load_model": "NAME",
    "server_name": "NAME",
    "host": "ADDRESS",
    "grpc_options": "NAME=VALUE",
    "devices": "NAME={...}",
    "default_device": "DEVICE",
    "ready_when": "DEVICE",
}
_UNITS = {"_s": "SECONDS", "_mb": "MIB", "_bytes": "BYTES", "_port": "PORT"}


class SettingsCommand(click.Command):
    """A command whose options include the settings, which its help shows in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        section = "Options"
        for parameter in self.get_params(ctx):
            section = _SECTIONS.get(str(parameter.name), section)
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault("Options" if parameter.is_eager else section, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(map(_without_value, args)))
        except click.UsageError as error:
            path = next((arg for arg in args if not arg.startswith("-") and Path(arg).exists()), None)
            if path is None or "unexpected extra argument" not in error.format_message():
                raise
            raise click.UsageError(serve_hint(path), ctx) from None


def options(
    settings: type[BaseModel] = Settings, leave_out: Collection[str] = (), *, hidden: bool = False
) -> list[click.Parameter]:
    """An option for each setting.

    Args:
        settings: what the options set.
        leave_out: settings that get none.
        hidden: whether the help is silent about them.
    """
    return [
        click.Option(
            list(_names(name, field)),
            metavar=_metavar(name, field),
            is_flag=field.annotation is bool,
            multiple=_repeats(field),
            default=None,
            help=_help(field),
            hidden=hidden,
        )
        for name, field in settings.model_fields.items()
        if name not in leave_out
    ]


def serve_hint(path: str) -> str:
    """What to say to somebody who names a repository, or a model's file, without its flag."""
    name = f" --model-name {Path(path).name.partition('.')[0]}" if Path(path).is_file() else ""
    return f"'{path}' is neither a command nor an option; to serve it: turnout-server serve --model-repository {path}{name}"


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a command's parameters that were given on the command line."""
    return {name: value for name, value in parameters.items() if name in Settings.model_fields and value not in (None, ())}


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """The settings on a command line of the server.

    Raises:
        click.UsageError: it isn't one.
    """
    return given(click.Command("serve", params=options()).make_context("turnout-server", list(words)).params)


def _names(name: str, field: FieldInfo) -> Iterator[str]:
    yield name
    yield f"{flag_of(name)}/--no-{flag_of(name)[2:]}" if field.annotation is bool else flag_of(name)


def _repeats(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) in (list, dict)


def _metavar(name: str, field: FieldInfo) -> str | None:
    if field.annotation is bool:
        return None
    if choices := [choice for choice in get_args(field.annotation) if isinstance(choice, str)]:
        return f"[{'|'.join(choices)}]"
    unit = next((word for suffix, word in _UNITS.items() if name.endswith(suffix)), None)
    return _METAVARS.get(name) or unit or ("DIR" if Path in (field.annotation, *get_args(field.annotation)) else "N")


def _help(field: FieldInfo) -> str:
    notes = ["required"] if field.is_required() else []
    if _is_worth_saying(field.default):
        notes.append(f"default: {field.default:g}" if isinstance(field.default, float) else f"default: {field.default}")
    if _repeats(field):
        notes.append("repeatable")
    return f"{field.description}  [{'; '.join(notes)}]" if notes else str(field.description)


def _is_worth_saying(default: Any) -> bool:
    """Whether a default is a number or a word."""
    return isinstance(default, int | float | str) and not isinstance(default, bool) and default != ""


_SWITCHES = {flag_of(name) for name, field in Settings.model_fields.items() if field.annotation is bool}


def _without_value(argument: str) -> str:
    """`--reflection=false` as `--no-reflection`, because other servers' switches have values."""
    flag, _, value = argument.partition("=")
    if flag not in _SWITCHES or value.lower() not in ("true", "1", "false", "0"):
        return argument
    return flag if value.lower() in ("true", "1") else f"--no-{flag[2:]}"
