"""Reads the settings: command line over environment over file over default.

The flag `--grpc-port`, the variable `TURNOUT_GRPC_PORT` and the TOML key `grpc_port` are one setting. An unknown name is an
error in all three places: a server that ignored a setting would not behave as its operator expects.
"""

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import CliSettingsSource, SettingsError, TomlConfigSettingsSource

from turnout_server.settings import PREFIX, DeviceSettings, DoctorSettings, Settings

S = TypeVar("S", bound=Settings)

#: Kubernetes sets these for every Service in the namespace, and a Service may be called `turnout`.
_KUBERNETES = re.compile(r"TURNOUT_(SERVICE_(HOST|PORT)|PORT)(_.*)?")


class UsageError(Exception):
    """A setting is wrong; the text names it, its value and the fix."""


def read(arguments: Sequence[str]) -> Settings:
    """The settings of this process.

    Raises:
        UsageError: a value or a name is wrong.
        SystemExit: `--help`, or arguments that argparse doesn't understand.
    """
    return _read(arguments, Settings)


def read_for_doctor(arguments: Sequence[str]) -> DoctorSettings:
    """The same settings, none of them required; raises what `read` raises."""
    return _read(arguments, DoctorSettings)


def _read(arguments: Sequence[str], settings: type[S]) -> S:
    _refuse_unknown_variables()
    file = _config_file(arguments)
    try:
        values = TomlConfigSettingsSource(settings, toml_file=file)() if file else {}
        tables = dict(map(_table_of, _flags_parser().parse_known_args(arguments)[0].device))
        if tables:
            values["devices"] = {**values.get("devices", {}), **tables}
        command_line: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
            settings, cli_parse_args=list(arguments), root_parser=_flags_parser(settings)
        )
        return settings(_cli_settings_source=command_line, **values)  # type: ignore[call-arg]
    except ValidationError as error:
        raise UsageError("\n".join(_explain(dict(problem)) for problem in error.errors())) from None
    except (SettingsError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}" if file else str(error)) from None


def _config_file(arguments: Sequence[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get(f"{PREFIX}CONFIG"))
    name = parser.parse_known_args(arguments)[0].config
    if name and not Path(name).is_file():
        raise UsageError(f"--config: there is no file '{name}'")
    return Path(name) if name else None


def _flags_parser(settings: type[BaseModel] | None = None) -> argparse.ArgumentParser:
    """Parses `--device`, which isn't a field because pydantic would split its value at commas.

    Args:
        settings: the settings that `--help` describes; None for a parser without it.
    """
    description = settings.__doc__ if settings else None
    parser = argparse.ArgumentParser(
        "turnout-server", description=description, add_help=settings is not None, allow_abbrev=False
    )
    text = "a declared device, with the keys of its table in the file: 'cpu:slow={threads = 1}'; may be repeated"
    parser.add_argument("--device", metavar="NAME={...}", action="append", default=[], help=text)
    return parser


def _table_of(value: str) -> tuple[str, dict[str, Any]]:
    """The name and the table in `cpu:slow={threads = 1}`; a name alone stands for an empty table."""
    name, _, table = value.partition("=")
    try:
        parsed = tomllib.loads(f"table = {table or '{}'}")["table"]
    except tomllib.TOMLDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise UsageError(f"--device={value}: it must be a name and a table, such as 'cpu:slow={{threads = 1, cpus = \"0\"}}'")
    return name.strip(), parsed


def _refuse_unknown_variables() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known and not _KUBERNETES.fullmatch(name):
            raise UsageError(f"unknown environment variable {name}{_suggestion(name, known)}")


def _explain(problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]] or ["settings"]
    name = ".".join(location)
    in_table = len(location) > 1
    shown = name if in_table else "--" + name.replace("_", "-")
    if problem["type"] == "missing":
        return f"{shown} is required (or {PREFIX}{name.upper()}, or '{name}' in the --config file)"
    if problem["type"] == "extra_forbidden":
        table = {".".join([*location[:-1], field]) for field in DeviceSettings.model_fields}
        return f"unknown setting '{name}'{_suggestion(name, table if in_table else set(Settings.model_fields))}"
    reason = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"] or location == ["devices"]:  # the reason names the settings; a whole table isn't shown
        return reason
    return f"{shown}: {problem['input']!s}: {reason}"


def _suggestion(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
