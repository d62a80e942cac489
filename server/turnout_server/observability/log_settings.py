"""The log, and its settings that clients may change while the server runs (LogSettings)."""

import logging
from typing import Final

from turnout_server.core.errors import InvalidRequest

Value = bool | int | str

_FORMATS: Final = {
    "default": ("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"),
    "ISO8601": ("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"),
}


class LogSettings:
    """Decides which records reach the log, and in what format.

    Settings: `log_info`, `log_warning`, `log_error` (bool), `log_verbose_level` (int; above 0 shows debug records),
    `log_format` (`default` or `ISO8601`), `log_file` (where the log goes; fixed at the start).
    """

    def __init__(self, handler: logging.Handler, level: str) -> None:
        severity = getattr(logging, level.upper())
        self._handler = handler
        self._settings: dict[str, Value] = {
            "log_file": "",
            "log_info": severity <= logging.INFO,
            "log_warning": severity <= logging.WARNING,
            "log_error": severity <= logging.ERROR,
            "log_verbose_level": int(severity <= logging.DEBUG),
            "log_format": "default",
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
        if key == "log_format" and value not in _FORMATS:
            raise InvalidRequest(f"log_format '{value}' is unknown; known are {list(_FORMATS)}")

    def _shows(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return bool(self._settings["log_error"])
        if record.levelno >= logging.WARNING:
            return bool(self._settings["log_warning"])
        if record.levelno >= logging.INFO:
            return bool(self._settings["log_info"])
        return int(self._settings["log_verbose_level"]) > 0

    def _apply_format(self) -> None:
        self._handler.setFormatter(OneLineFormatter(*_FORMATS[str(self._settings["log_format"])]))


class OneLineFormatter(logging.Formatter):
    """Escapes control characters in messages, so that a model name can't forge a line of the log. Tracebacks stay unchanged."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in record.message)
        return super().formatMessage(record)
