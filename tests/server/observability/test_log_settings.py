"""The log's filter and format can be changed while serving."""

import io
import json
import logging

import pytest
from turnout_server.core.errors import InvalidRequest
from turnout_server.observability.log_settings import LogSettings, Value

LEVELS = ("debug", "info", "warning", "error")


class Log:
    """A logger of its own and what it wrote."""

    def __init__(self, level: str = "info", log_format: str = "default") -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        self.settings = LogSettings(handler, level, log_format)
        self.logger = logging.Logger("test", logging.DEBUG)
        self.logger.addHandler(handler)

    def shown(self) -> list[str]:
        """Logs at each level; returns the levels that are shown."""
        for level in LEVELS:
            self.logger.log(getattr(logging, level.upper()), "at %s", level)
        return [level for level in LEVELS if f"at {level}" in self.text()]

    def text(self) -> str:
        return self._stream.getvalue()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_initial_level_decides_what_is_shown(level: str, count: int) -> None:
    assert Log(level).shown() == list(LEVELS[4 - count :])


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"log_info": False}, ["warning", "error"]),
        ({"log_warning": False}, ["info", "error"]),
        ({"log_error": False}, ["info", "warning"]),
        ({"log_verbose_level": 1}, ["debug", "info", "warning", "error"]),
    ],
)
def test_each_setting_takes_effect(log: Log, changes: dict[str, Value], shown: list[str]) -> None:
    log.settings.update(changes)
    assert log.shown() == shown


def test_the_format_becomes_iso_8601(log: Log) -> None:
    log.settings.update({"log_format": "ISO8601"})
    log.logger.error("here")
    assert log.text()[10] == "T"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log_infos": True}, "unknown log setting 'log_infos'"),
        ({"log_file": "elsewhere"}, "can not be updated"),
        ({"log_info": 1}, "must be a bool"),
        ({"log_verbose_level": True}, "must be a int"),
        ({"log_format": "xml"}, "log_format 'xml' is unknown"),
    ],
)
def test_a_wrong_setting_is_refused_together_with_the_others_of_its_request(
    log: Log, changes: dict[str, Value], words: str
) -> None:
    before = log.settings.settings()
    with pytest.raises(InvalidRequest, match=words):
        log.settings.update({"log_warning": False, **changes})
    assert log.settings.settings() == before


def test_a_message_cannot_forge_a_line(log: Log) -> None:
    log.logger.error("model %s", "a\nERROR forged \x1b[31m")
    assert log.text().count("\n") == 1
    assert "\x1b" not in log.text()


def test_a_json_log_has_an_object_a_line_with_the_request() -> None:
    log = Log(log_format="json")
    log.logger.info("a %s", 'b"\n\x1b[1m', extra={"request_id": "r7", "model": "m", "other": 1})
    log.logger.warning("plain")
    first, second = map(json.loads, log.text().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "INFO", "logger": "test", "message": 'a b"\n\x1b[1m', "request_id": "r7", "model": "m"}
    assert set(second) == {"time", "level", "logger", "message"}


def test_a_traceback_is_part_of_its_json_line() -> None:
    log = Log(log_format="json")
    try:
        raise ValueError("why")
    except ValueError:
        log.logger.exception("failed")
    (line,) = log.text().splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]


def test_the_format_becomes_json_while_serving(log: Log) -> None:
    log.settings.update({"log_format": "json"})
    log.logger.error("here")
    assert json.loads(log.text())["message"] == "here"
