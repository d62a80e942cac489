"""`turnout-server top`: what a running server is doing, in a terminal."""

import json
import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import click
from turnout_cli import family

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


class _Seconds(click.ParamType[float]):
    """A number of seconds, such as 2 or 0.5s."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)s?", str(value))
        if match is None or not 0.1 <= (seconds := float(match[1])) < math.inf:
            self.fail(f"'{value}' is not a number of seconds from 0.1, such as 2 or 0.5s", param, ctx)
        return seconds


@click.command(
    "top",
    context_settings={**family.SETTINGS, "ignore_unknown_options": True},
    short_help="Show what a running server is doing.",
    epilog="Finds the server by its flags and variables, like turnout-server health, or by --at. Ctrl-C ends it.",
)
@click.option("--at", metavar="HOST:PORT", help="the server with this metrics port")
@click.option("--every", metavar="SECONDS", type=_Seconds(), default=1.0, help="time between two pages (1)")
@click.option("--once", is_flag=True, help="print one page and end, as where the output is no terminal")
@click.argument("server_flags", nargs=-1, type=click.UNPROCESSED, metavar="[FLAGS OF THE SERVER]")
def top(at: str | None, every: float, once: bool, server_flags: tuple[str, ...]) -> int:
    """Show what a running server is doing: devices, models, queues, latency and routes.

    The page at / of its metrics port shows the same in a browser.
    """
    return watch(at, every, server_flags, once=once)


def watch(
    at: str | None,
    every_s: float,
    flags: Sequence[str],
    output: TextIO | None = None,
    sleep: Callable[[float], Any] = time.sleep,
    *,
    once: bool = False,
) -> int:
    """Shows the server until it is interrupted; once if `output` is no terminal. Returns 0, or 1 if no server answers.

    Raises:
        UsageError: the arguments or the settings are wrong.
    """
    output = output or sys.stdout
    if at and flags:
        raise UsageError(f"a running server has its own settings: leave out {flags[0]}, or --at")
    if at and not re.fullmatch(r".+:\d{1,5}", at):
        raise UsageError(f"--at: '{at}' is not HOST:PORT, such as 127.0.0.1:8002")
    address = at or running_server.address_of(flags)
    try:
        _show(address, every_s, output, sleep, once=once or not output.isatty())
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
