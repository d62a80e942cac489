"""The command: reads the question, gets the explanation, and prints it."""

import http.client
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import click
from turnout_cli.family import SETTINGS, fail

from turnout_server import settings_sources
from turnout_server.cli import flags
from turnout_server.cli.explain import page
from turnout_server.cli.running_server import NOT_HTTP, fetch, is_not_http
from turnout_server.cli.textpage import stdout_to_stderr
from turnout_server.core.errors import InvalidRequest, NotFound, ServingError
from turnout_server.explain import http as explain_http
from turnout_server.explain.answer import Explanation, Question
from turnout_server.scheduling.routing import OBJECTIVES
from turnout_server.settings import Settings
from turnout_server.settings_sources import UsageError

_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}
#: How long a running server may take to answer.
_TIMEOUT_S = 10.0
_EPILOG = """\b
Also takes every setting of the server; see turnout-server serve --help.
Exit status: 0 if a device would take the request, 1 if none would, 2 if the arguments are wrong.

\b
Examples:
  turnout-server explain digits --model-repository models --rows 8 --deadline 50ms
  turnout-server explain digits --at 127.0.0.1:8002
"""

T = TypeVar("T")


def duration_us(text: str) -> float:
    """Microseconds in `500us`, `50ms` or `2s`.

    Raises:
        ValueError: it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if match is None or not 0 < (us := float(match[1]) * _UNITS_US[match[2]]) < math.inf:
        raise ValueError("a duration such as 500us, 50ms or 2s")
    return us


def rate_per_s(text: str) -> float:
    """Requests a second in `100/s`.

    Raises:
        ValueError: it is something else.
    """
    try:
        return explain_http.positive(text.removesuffix("/s"))
    except ValueError:
        raise ValueError("a rate such as 100/s") from None


class _Typed(click.ParamType[Any]):
    """A type of option whose function says, in the ValueError that it raises, what a text should have been."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(f"'{value}' is not {error}", param, ctx)


@click.command(
    "explain",
    cls=flags.SettingsCommand,
    context_settings=SETTINGS,
    short_help="Print where a request would run, and why.",
    epilog=_EPILOG,
)
@click.argument("model", metavar="MODEL")
@click.option("--model-version", metavar="N", default="", help="its version (the highest by default)")
@click.option(
    "--rows", metavar="N", type=_Typed("rows", explain_http.count), default=1, help="rows of the request  [default: 1]"
)
@click.option("--deadline", metavar="50ms", type=_Typed("duration", duration_us), help="how long the answer may take")
@click.option("--load", metavar="100/s", type=_Typed("rate", rate_per_s), help="also say what this load would mean")
@click.option("--device", metavar="DEVICE", default="", help="the request's device: auto, cpu, cuda, cuda:0, 'cuda,cpu'")
@click.option("--objective", type=click.Choice(OBJECTIVES), help="how to choose between several devices")
@click.option("--precision", metavar="NAME", default="", help="only devices with a file of it: fp32, fp16, int8, ...")
@click.option("--priority", metavar="N", type=_Typed("level", explain_http.whole), default=0, help="1 is the most urgent")
@click.option("--at", metavar="HOST:PORT", default="", help="ask the running server with this metrics port")
@click.option("as_json", "--json", is_flag=True, help="print JSON instead of the page")
def explain(
    model: str,
    model_version: str,
    rows: int,
    deadline: float | None,
    load: float | None,
    device: str,
    objective: str | None,
    precision: str,
    priority: int,
    at: str,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Print where a request for MODEL would run, and why: in a server with these settings, or in a running one."""
    question = Question(model, model_version, rows, device, objective or "", precision, priority, deadline, load)
    given = flags.given(parameters)
    if at and given:
        flag = settings_sources.flag_of(next(iter(given)))
        raise UsageError(f"a running server has its own settings: leave out {flag}, or --at")
    try:
        explanation = _explain_live(at, question) if at else _explain_offline(given, question)
    except (InvalidRequest, NotFound) as error:
        raise UsageError(str(error)) from None
    except ImportError as error:
        return fail("turnout-server", f"{error}; 'turnout-server doctor' has the fix", 1)
    except ServingError as error:
        return fail("turnout-server", str(error), 1)
    print(explain_http.as_json(explanation) if as_json else page.as_text(explanation, live=bool(at)))
    return 0 if explanation.device else 1


explain.params += flags.options(leave_out=("devices", "objective"), hidden=True)


def _explain_offline(given: Mapping[str, Any], question: Question) -> Explanation:
    chosen = settings_sources.read(given, Settings)
    logging.getLogger("turnout_server").addHandler(logging.NullHandler())  # the page has the reasons
    with stdout_to_stderr():
        from turnout_server.cli.explain import offline  # noqa: PLC0415, fails where ONNX Runtime is broken

        return offline.explain(chosen, question)


def _explain_live(address: str, question: Question) -> Explanation:
    """The explanation of a running server.

    Raises:
        UsageError: no server answers, or it doesn't accept the question.
        ServingError: it has the model, but can't explain now.
    """
    if not re.fullmatch(r".+:\d+", address):
        raise UsageError(f"--at: '{address}' is not HOST:PORT, such as 127.0.0.1:8002")
    try:
        status, text = fetch(address, f"{explain_http.PATH}?{explain_http.query_of(question)}", _TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        if is_not_http(error):
            raise UsageError(f"--at: {NOT_HTTP.format(address=address)}") from None
        raise UsageError(f"--at {address}: no server answers there: {error}") from None
    if status == 503:
        raise ServingError(text.strip())
    try:
        return explain_http.explanation_of(text) if status == 200 else _refused(text)
    except ValueError as error:
        raise UsageError(f"--at {address}: {error}") from None


def _refused(text: str) -> NoReturn:
    raise UsageError(text.strip())
