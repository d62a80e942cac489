"""The command: reads the question, gets the explanation, and prints it."""

import argparse
import http.client
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from turnout_server import settings_sources
from turnout_server.cli.explain import page
from turnout_server.cli.textpage import stdout_to_stderr
from turnout_server.core.errors import InvalidRequest, NotFound, ServingError
from turnout_server.explain import http as explain_http
from turnout_server.explain.answer import Explanation, Question
from turnout_server.scheduling.routing import OBJECTIVES
from turnout_server.settings_sources import UsageError

_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}
#: How long a running server may take to answer.
_TIMEOUT_S = 10.0

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises an error of one line; argparse would add its usage."""
        raise UsageError(f"{message}; see turnout-server explain --help")


def main(arguments: Sequence[str]) -> int:
    """Prints the explanation; returns 0 if a device would take the request, and 1 if none would.

    Raises:
        UsageError: the arguments or the settings are wrong.
        SystemExit: `--help`.
    """
    chosen, flags = _read(arguments)
    question = Question(
        chosen.model,
        chosen.model_version,
        chosen.rows,
        chosen.device,
        chosen.objective,
        chosen.precision,
        chosen.priority,
        chosen.deadline,
        chosen.load,
    )
    try:
        explanation = _explain_live(chosen.at, question) if chosen.at else _explain_offline(flags, question)
    except (InvalidRequest, NotFound) as error:
        raise UsageError(str(error)) from None
    except ImportError as error:
        return _print_error(f"{error}; 'turnout-server doctor' has the fix")
    except ServingError as error:
        return _print_error(str(error))
    print(explain_http.as_json(explanation) if chosen.json else page.as_text(explanation, live=bool(chosen.at)))
    return 0 if explanation.device else 1


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


def _read(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of this command, and the server's flags among them."""
    parser = _parser()
    if not {"-h", "--help"} & set(arguments) and (not arguments or arguments[0].startswith("-")):
        parser.error("the name of the model comes first: turnout-server explain MODEL")
    chosen, flags = parser.parse_known_args(list(arguments))
    if chosen.at and flags:
        parser.error(f"a running server has its own settings: leave out {flags[0]}, or --at")
    return chosen, flags


def _parser() -> _Parser:
    parser = _Parser(
        "turnout-server explain",
        description="Prints where a request would run, and why: in a server with these settings, or in a running one.",
        epilog="Also takes every setting of the server; see turnout-server --help. Exit status: 0 if a device would take "
        "the request, 1 if none would, 2 if the arguments are wrong.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="the model's name")
    parser.add_argument("--model-version", metavar="N", default="", help="its version (the highest by default)")
    parser.add_argument(
        "--rows", metavar="N", type=_typed(explain_http.count), default=1, help="rows of the request (1 by default)"
    )
    parser.add_argument("--deadline", metavar="50ms", type=_typed(duration_us), help="how long the answer may take")
    parser.add_argument("--load", metavar="100/s", type=_typed(rate_per_s), help="also say what this load would mean")
    parser.add_argument("--device", default="", help="the request's device: auto, cpu, cuda, cuda:0, 'cuda,cpu'")
    parser.add_argument("--objective", choices=OBJECTIVES, default="", help="how to choose between several devices")
    parser.add_argument("--precision", default="", help="only devices with a file of this precision: fp32, fp16, int8, ...")
    parser.add_argument("--priority", metavar="N", type=_typed(explain_http.whole), default=0, help="1 is the most urgent")
    parser.add_argument("--at", metavar="HOST:PORT", help="ask the running server with this metrics port")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the page")
    return parser


def _typed(read: Callable[[str], T]) -> Callable[[str], T]:
    """`read` as a type for argparse."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}' is not {error}") from None

    return convert


def _explain_offline(flags: list[str], question: Question) -> Explanation:
    chosen = settings_sources.read(flags)
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
        connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
        connection.request("GET", f"{explain_http.PATH}?{explain_http.query_of(question)}")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"--at {address}: no server answers there: {error}") from None
    if answer.status == 503:
        raise ServingError(text.strip())
    try:
        return explain_http.explanation_of(text) if answer.status == 200 else _refused(text)
    except ValueError as error:
        raise UsageError(f"--at {address}: {error}") from None


def _refused(text: str) -> NoReturn:
    raise UsageError(text.strip())


def _print_error(text: str) -> int:
    print(f"turnout-server: {text}", file=sys.stderr)
    return 1
