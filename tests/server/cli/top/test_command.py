"""The command `turnout-server top`, against a monitoring server."""

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from prometheus_client import CollectorRegistry
from turnout_server.cli.top import command
from turnout_server.observability.http import Answer, MonitoringServer
from turnout_server.settings_sources import UsageError

from tests.server.cli.top.statuses import entry, model, status


class Server:
    """A monitoring server whose /status are these, one after the other; the last one stays."""

    def __init__(self) -> None:
        self.statuses: list[Any] = [
            status(1, model(entry(counts=(5, 0, 0, 0)))),
            status(2, model(entry(counts=(9, 0, 0, 0)))),
        ]
        self.monitoring = MonitoringServer("127.0.0.1", 0, CollectorRegistry(), {"/status": self._answer})
        self.at = f"--at=127.0.0.1:{self.monitoring.port}"

    def _answer(self, _: str) -> Answer:
        now = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Answer("200 OK", "application/json", json.dumps(now))


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.monitoring.start()
    yield server
    server.monitoring.stop()


class Terminal(io.StringIO):
    """A terminal at which somebody presses Ctrl-C after so many pages."""

    def __init__(self, pages: int) -> None:
        super().__init__()
        self._sleeps_left = pages

    def isatty(self) -> bool:
        return True

    def sleep(self, _: float) -> None:
        if not self._sleeps_left:
            raise KeyboardInterrupt
        self._sleeps_left -= 1


def main(arguments: list[str], output: io.StringIO, sleep: Callable[[float], object] = time.sleep) -> int:
    """The command's status."""
    chosen = command.top.make_context("top", arguments).params
    return command.watch(chosen["at"], chosen["every"], chosen["server_flags"], output, sleep, once=chosen["once"])


def test_where_the_output_is_no_terminal_one_page_is_printed(server: Server) -> None:
    output, slept = io.StringIO(), list[float]()
    assert main([server.at, "--every=3"], output, slept.append) == 0
    assert slept == [3]
    assert output.getvalue().startswith("box  ready")
    assert "4.0" in output.getvalue()  # requests/s between the two answers
    assert "\x1b" not in output.getvalue()


def test_a_terminal_is_rewritten_until_ctrl_c(server: Server) -> None:
    terminal = Terminal(pages=3)
    assert main([server.at], terminal, terminal.sleep) == 0
    assert terminal.getvalue().count("\x1b[H\x1b[2Jbox") == 3


def test_once_prints_one_page_on_a_terminal_too(server: Server) -> None:
    terminal = Terminal(pages=9)
    assert main([server.at, "--once"], terminal, terminal.sleep) == 0
    assert terminal.getvalue().count("box  ready") == 1


def test_a_server_that_was_restarted_counts_anew(server: Server) -> None:
    server.statuses = [
        status(500, model(entry(counts=(9, 0, 0, 0)))),
        status(1, model(entry(counts=(0, 0, 0, 0)))),
        status(2, model(entry(counts=(7, 0, 0, 0)))),
    ]
    terminal = Terminal(pages=2)
    main([server.at], terminal, terminal.sleep)
    assert "7.0" in terminal.getvalue().split("\x1b[H\x1b[2J")[-1]


@pytest.mark.parametrize("answer", [{"schema_version": 2}, [], "text", {"other": 1}])
def test_an_answer_of_something_else_is_refused(server: Server, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.statuses = [answer]
    assert main([server.at], io.StringIO()) == 1
    assert "is no Turnout server whose /status this version can read" in capsys.readouterr().err


def test_where_no_server_answers_the_address_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--at=127.0.0.1:1"], io.StringIO()) == 1
    assert "no server answers on 127.0.0.1:1: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--at=here"], "'here' is not HOST:PORT"),
        (["--at=h:1", "--grpc-port=1"], "leave out --grpc-port=1"),
        (["--every=0"], "'0' is not a number of seconds from 0.1"),
        (["--every=fast"], "'fast' is not a number of seconds"),
        (["--metrics-port=0"], "give it a number"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], text: str) -> None:
    with pytest.raises((UsageError, click.UsageError), match=text):
        main(arguments, io.StringIO())
