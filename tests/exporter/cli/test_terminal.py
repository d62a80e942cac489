from io import StringIO

import pytest
from rich.console import Console
from turnout_exporter.cli.terminal import Terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("turnout_exporter.cli.terminal.time.monotonic", lambda: now[0])
    return now


def shown(console: Console) -> list[str]:
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=100)


def test_each_step_ends_with_its_time_and_a_failed_one_with_a_cross(console: Console, clock: list[float]) -> None:
    with Terminal(console) as terminal:
        terminal.step("Building [x]")
        clock[0] = 2.0
        terminal.step("Exporting")
        clock[0] = 5.5
        terminal.failed()
        terminal.note("so the other one is tried")
        terminal.step("Exporting again")
    assert shown(console) == [
        "✓ Building [x] 2.0 s",
        "✗ Exporting 3.5 s",
        "! so the other one is tried",
        "✓ Exporting again 0.0 s",
    ]


def test_a_long_step_says_every_half_minute_how_far_it_is(console: Console, clock: list[float]) -> None:
    with Terminal(console) as terminal:
        terminal.step("Exporting")
        terminal.detail("3 of 9")
        for second in range(1, 71):
            clock[0] = float(second)
            terminal.tick()
    assert shown(console) == ["… Exporting: 3 of 9 30 s", "… Exporting: 3 of 9 60 s", "✓ Exporting 70.0 s"]


def test_an_error_marks_the_last_step(console: Console, clock: list[float]) -> None:
    def fail() -> None:
        with Terminal(console) as terminal:
            terminal.step("Exporting")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert shown(console) == ["✗ Exporting 0.0 s"]
