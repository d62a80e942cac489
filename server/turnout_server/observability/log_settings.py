"""The log, and its settings that clients may change while the server runs (LogSettings)."""

import json
import logging
from datetime import UTC, datetime
from typing import Final

from turnout_server.core.errors import InvalidRequest

Value = bool | int | str

#: What a record of the log may say of a request, as `extra`; JSON logs have it in fields of these names.
REQUEST_FIELDS: Final = ("request_id", "model")


class LogSettings:
    """Decides which records reach the log, and in what format.

    Settings: `log_info`, `log_warning`, `log_error` (bool), `log_verbose_level` (int; above 0 shows debug records),
    `log_format` (`default`, `ISO8601` or `json`), `log_file` (where the log goes; fixed at the start).

    Args:
        level: the least severe level that is shown: `debug`, `info`, `warning` or `error`.
        log_format: the format at the start.
    """

    def __init__(self, handler: logging.Handler, level: str, log_format: str = "default") -> None:
        severity = getattr(logging, level.upper())
        self._handler = handler
        self._settings: dict[str, Value] = {
            "log_file": "",
            "log_info": severity <= logging.INFO,
            "log_warning": severity <= logging.WARNING,
            "log_error": severity <= logging.ERROR,
            "log_verbose_level": int(severity <= logging.DEBUG),
            "log_format": log_format,
        }
        handler.addFilter(self._shows)
        self._apply_format()

    def settings(self) -> dict[str, Value]:
        """The effective settings."""
        return dict(self._settings)

    def update(self, changes: dict[str, Value]) -> None:
        """Changes settings: all of these, or none.

        Raises:
            InvalidRequest: one doesn't exist, or can't have that value.
        """
        for key, value in changes.items():
            self._check(key, value)
        self._settings.update(changes)
        self._apply_format()

    def _check(self, key: str, value: Value) -> None:
        if key not in self._settings:
            raise InvalidRequest(f"unknown log setting '{key}'; known are {list(self._settings)}")
        if key == "log_file":
            raise InvalidRequest("log file location can not be updated through network protocol")
        if type(value) is not type(self._settings[key]):
            raise InvalidRequest(f"log setting '{key}' must be a {type(self._settings[key]).__name__}, got {value!r}")
        if key == "log_format" and value not in _FORMATTERS:
            raise InvalidRequest(f"log_format '{value}' is unknown; known are {list(_FORMATTERS)}")

    def _shows(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return bool(self._settings["log_error"])
        if record.levelno >= logging.WARNING:
            return bool(self._settings["log_warning"])
        if record.levelno >= logging.INFO:
            return bool(self._settings["log_info"])
        return int(self._settings["log_verbose_level"]) > 0

    def _apply_format(self) -> None:
        self._handler.setFormatter(_FORMATTERS[str(self._settings["log_format"])])


class OneLineFormatter(logging.Formatter):
    """Escapes control characters in messages, so that a model name can't forge a line of the log. Tracebacks stay unchanged."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in record.message)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, tracebacks included.

    Fields: `time` (UTC), `level`, `logger`, `message`, those of REQUEST_FIELDS that the record has, and `exception`.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{field: getattr(record, field) for field in REQUEST_FIELDS if getattr(record, field, "")},
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


_LINE: Final = "%(levelname)-7s %(name)s: %(message)s"
_FORMATTERS: Final[dict[str, logging.Formatter]] = {
    "default": OneLineFormatter(f"%(asctime)s.%(msecs)03d {_LINE}", "%Y-%m-%d %H:%M:%S"),
    "ISO8601": OneLineFormatter(f"%(asctime)s.%(msecs)03dZ {_LINE}", "%Y-%m-%dT%H:%M:%S"),
    "json": JsonFormatter(),
}
