"""Explanations over HTTP: encodes and decodes the question as a query string, and the answer as JSON."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import parse_qsl, urlencode

from turnout_server.core.errors import InvalidRequest, NotFound, ServingError, Unavailable
from turnout_server.explain.answer import DeviceFacts, Explanation, Question
from turnout_server.explain.load import Load
from turnout_server.scheduling.routing import OBJECTIVES

PATH = "/explain"
SCHEMA_VERSION = 1
#: The HTTP status of an error; 400 for any other.
_STATUS = {NotFound: "404 Not Found", Unavailable: "503 Service Unavailable"}
_MAX_DIGITS = 9


def answer(explain: Callable[[Question], Explanation], query: str) -> tuple[str, str, str]:
    """The HTTP status, content type and body that answer a query string."""
    try:
        return "200 OK", "application/json", as_json(explain(question_of(query)))
    except ServingError as error:
        return _STATUS.get(type(error), "400 Bad Request"), "text/plain; charset=utf-8", f"{error}\n"


def question_of(query: str) -> Question:
    """The question that a query string asks.

    Raises:
        InvalidRequest: a key or a value is wrong; the text names it.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    values = dict(pairs)
    for key in values:
        if key not in _READERS:
            raise InvalidRequest(f"unknown key '{key}'; a question has {', '.join(_READERS)}")
    if len(values) < len(pairs):
        raise InvalidRequest(f"a key is there more than once: {query}")
    if not values.get("model"):
        raise InvalidRequest(f"which model? Ask {PATH}?model=NAME")
    return Question(**{key: _read(key, value) for key, value in values.items()})


def query_of(question: Question) -> str:
    """The query string that asks a question."""
    values = {field.name: getattr(question, field.name) for field in fields(Question)}
    return urlencode({key: value for key, value in values.items() if value not in (None, "")})


def as_json(explanation: Explanation) -> str:
    """The explanation as a JSON object; the keys of durations end in their unit."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(explanation)}, indent=2)


def explanation_of(text: str) -> Explanation:
    """The explanation that `as_json` wrote.

    Raises:
        ValueError: it isn't an explanation, or has another schema version.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("schema_version", None) != SCHEMA_VERSION:
        raise ValueError("this is no explanation, or that of another version of Turnout")
    try:
        return Explanation(**{**content, "devices": tuple(_facts(device) for device in content["devices"])})
    except (TypeError, KeyError):
        raise ValueError("this is the explanation of another version of Turnout") from None


def _facts(content: Mapping[str, Any]) -> DeviceFacts:
    load = content["load"]
    return DeviceFacts(**{**content, "load": load and Load(**load)})


def _read(key: str, value: str) -> Any:
    try:
        return _READERS[key](value)
    except ValueError as error:
        raise InvalidRequest(f"{key}: '{value[:64]}' is not {error}") from None


def count(text: str) -> int:
    """A whole number above 0. Raises ValueError, with what was expected as its text, as do the functions below."""
    if (number := whole(text)) == 0:
        raise ValueError("a whole number above 0")
    return number


def positive(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("a number above 0")
    return number


def whole(text: str) -> int:
    """A whole number that may be 0."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise ValueError("a whole number")
    return int(text)


def _objective(text: str) -> str:
    if text not in OBJECTIVES:
        raise ValueError(f"one of {', '.join(OBJECTIVES)}")
    return text


_READERS: dict[str, Callable[[str], Any]] = {
    "model": str,
    "version": str,
    "rows": count,
    "device": str,
    "objective": _objective,
    "precision": str,
    "priority": whole,
    "deadline_us": positive,
    "load_per_s": positive,
}
