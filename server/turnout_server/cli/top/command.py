"""`turnout-server top`: what a running server is doing, in a terminal."""

import argparse
import json
import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from turnout_server.cli import running_server
from turnout_server.cli.running_server import NoAnswer
from turnout_server.cli.top import page
from turnout_server.cli.top.rates import Status, rates_of
from turnout_server.settings_sources import UsageError

_PATH = "/status"
_SCHEMA_VERSION = 1
_WINDOW_S = 10.0
_TIMEOUT_S = 5.0
_CLEAR = "\x1b[H\x1b[2J"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises an error of one line; argparse would add its usage."""
        raise UsageError(f"{message}; see turnout-server top --help")


def main(arguments: Sequence[str], output: TextIO | None = None, sleep: Callable[[float], Any] = time.sleep) -> int:
    """Shows the server until it is interrupted; once if `output` is no terminal. Returns 0, or 1 if no server answers.

    Raises:
        UsageError: the arguments or the settings are wrong.
        SystemExit: `--help`.
    """
    output = output or sys.stdout
    chosen, flags = _parser().parse_known_args(list(arguments))
    if chosen.at and flags:
        raise UsageError(f"a running server has its own settings: leave out {flags[0]}, or --at")
    if chosen.at and not re.fullmatch(r".+:\d{1,5}", chosen.at):
        raise UsageError(f"--at: '{chosen.at}' is not HOST:PORT, such as 127.0.0.1:8002")
    address = chosen.at or running_server.address_of(flags)
    try:
        _show(address, chosen.every, output, sleep, once=chosen.once or not output.isatty())
    except NoAnswer as error:
        print(f"turnout-server: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=output)
    return 0


def _show(address: str, every_s: float, output: TextIO, sleep: Callable[[float], Any], *, once: bool) -> None:
    """Prints the page after each answer, from the second on."""
    answers: deque[Status] = deque([_ask(address)])
    while True:
        sleep(every_s)
        answer = _ask(address)
        if answer["server"]["uptime_s"] < answers[-1]["server"]["uptime_s"]:  # a new server
            answers.clear()
        answers.append(answer)
        while len(answers) > 2 and answer["server"]["uptime_s"] - answers[0]["server"]["uptime_s"] > _WINDOW_S:
            answers.popleft()
        print("" if once else _CLEAR, page.as_text(answer, rates_of(answers[0], answer)), sep="", file=output, flush=True)
        if once:
            return


def _ask(address: str) -> Status:
    """The server's status.

    Raises:
        NoAnswer: there is none, or not of a kind that this version reads.
    """
    code, text = running_server.get(address, _PATH, _TIMEOUT_S)
    try:
        status = json.loads(text)
        understood = code == 200 and status["schema_version"] == _SCHEMA_VERSION
    except (ValueError, KeyError, TypeError):
        understood = False
    if not understood:
        raise NoAnswer(f"{address} is no Turnout server whose {_PATH} this version can read; is it the metrics port?")
    answer: Status = status
    return answer


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)s?", text)
    if match is None or not 0.1 <= (seconds := float(match[1])) < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0.1, such as 2 or 0.5s")
    return seconds


def _parser() -> _Parser:
    parser = _Parser(
        "turnout-server top",
        description="Shows what a running server is doing: devices, models, queues, latency and routes. The page at / of its "
        "metrics port shows the same in a browser.",
        epilog="Finds the server by its flags and variables, like turnout-server health, or by --at. Ctrl-C ends it.",
        allow_abbrev=False,
    )
    parser.add_argument("--at", metavar="HOST:PORT", help="the server with this metrics port")
    parser.add_argument("--every", metavar="SECONDS", type=_seconds, default=1.0, help="time between two pages (1)")
    parser.add_argument("--once", action="store_true", help="print one page and end, as where the output is no terminal")
    return parser
