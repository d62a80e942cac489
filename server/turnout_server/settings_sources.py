"""Reads the settings: command line over environment over file over default.

The flag `--grpc-port`, the variable `TURNOUT_GRPC_PORT` and the TOML key `grpc_port` are one setting. An unknown name is an
error in all three places: a server that ignored a setting would not behave as its operator expects.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from turnout_server.settings import PREFIX, DeviceSettings, Settings

S = TypeVar("S", bound=Settings)

#: Kubernetes sets these in every pod of a namespace, for each Service whose name begins with `turnout`
#: (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_OF_A_SERVICE = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
#: And these, which could also be a setting or one that is misspelled; the value tells.
_PORT_OF_A_SERVICE, _ADDRESS_OF_A_SERVICE = re.compile(rf"{PREFIX}(\w+_)?PORT", re.ASCII), re.compile(r"(tcp|udp|sctp)://")


class UsageError(Exception):
    """A setting is wrong; the text names it, its value and the fix."""


def read(flags: Mapping[str, Any], settings: type[S]) -> S:
    """The settings of this process.

    Args:
        flags: the settings on the command line by name: a text, a list of texts for those that may be repeated, or a bool.
        settings: Settings, or those that the doctor needs.

    Raises:
        UsageError: a value or a name is wrong.
    """
    variables = _variables()
    file = _config_file(flags.get("config"), variables.get("config"))
    values = _content(file) if file else {}
    origins = {name: f"'{name}' in {file}" for name in values}
    for given, origin in ((variables, variable_of), (flags, flag_of)):
        for name, value in given.items():
            values[name] = _parsed(name, value, origin(name), values.get(name))
            origins[name] = origin(name)
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(dict(problem), origins) for problem in error.errors())) from None


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--device" if name == "devices" else f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of an error about an unknown name: the one that was probably meant, or all."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"


def _variables() -> dict[str, str]:
    """The settings in the environment, by name; an empty variable counts as absent."""
    known = {variable_of(name): name for name in Settings.model_fields if name != "devices"}
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and not _is_of_a_service(name, value)}
    for name in given:
        if name not in known:
            raise UsageError(f"unknown environment variable {name}{suggestion(name, known)}")
    return {known[name]: value for name, value in given.items() if value}


def _is_of_a_service(name: str, value: str) -> bool:
    if _OF_A_SERVICE.fullmatch(name):
        return True
    return bool(_PORT_OF_A_SERVICE.fullmatch(name) and _ADDRESS_OF_A_SERVICE.match(value))


def _config_file(*given: str | None) -> Path | None:
    name = next(filter(None, given), None)
    if name and not Path(name).is_file():
        raise UsageError(f"--config: there is no file '{name}'")
    return Path(name) if name else None


def _content(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config: {file}: {error}") from None


def _parsed(name: str, value: Any, origin: str, before: Any) -> Any:
    """A value as the file would give it.

    Args:
        value: one text, several, or a bool.
        before: the value so far, which tables of devices are added to.
    """
    texts = [value] if isinstance(value, str) else value
    if name == "devices":
        return {**(before or {}), **dict(map(_table_of, texts))}
    if name == "load_model":
        return [entry for text in texts for entry in _entries_of(text, origin)]
    if name == "grpc_options":
        return {key: option for text in texts for key, option in _options_of(text, origin).items()}
    return value


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


def _entries_of(text: str, origin: str) -> list[Any]:
    """The entries of `a,b` or `["a", "b"]`."""
    if not text.lstrip().startswith("["):
        return [entry.strip() for entry in text.split(",") if entry.strip()]
    entries = _json(text, origin)
    return entries if isinstance(entries, list) else [entries]


def _options_of(text: str, origin: str) -> dict[str, Any]:
    """The options in `grpc.a=1,grpc.b=x` or `{"grpc.a": 1}`."""
    if text.lstrip().startswith("{"):
        return dict(_json(text, origin))
    options: dict[str, Any] = {}
    for entry in filter(None, text.split(",")):
        name, separator, value = entry.partition("=")
        if not separator:
            raise UsageError(f"{origin}: {text}: '{entry}' is not NAME=VALUE, such as grpc.keepalive_time_ms=60000")
        options[name.strip()] = int(value) if re.fullmatch(r"-?\d+", value.strip()) else value.strip()
    return options


def _json(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{origin}: {text}: it is not valid JSON: {error}") from None


def _explain(problem: dict[str, Any], origins: Mapping[str, str]) -> str:
    location = [str(part) for part in problem["loc"]] or ["settings"]
    name = ".".join(location)
    in_table = location[0] == "devices" and len(location) > 1
    if problem["type"] == "missing":
        return f"{flag_of(name)} is required (or {variable_of(name)}, or '{name}' in the --config file)"
    if problem["type"] == "extra_forbidden":
        table = {".".join([*location[:-1], field]) for field in DeviceSettings.model_fields}
        return f"unknown setting '{name}'{suggestion(name, table if in_table else set(Settings.model_fields))}"
    reason = "it must be a path" if problem["type"] == "path_type" else str(problem["msg"]).removeprefix("Value error, ")
    is_own = problem["type"] == "value_error"
    if not problem["loc"] or (location == ["devices"] and is_own):  # the reason names the settings; a table isn't shown
        return reason
    return f"{name if in_table else origins.get(location[0], flag_of(location[0]))}: {problem['input']!s}: {reason}"
