import os
import signal

import pytest
from turnout_exporter import interrupts
from turnout_exporter.interrupts import Interrupted


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_becomes_an_error_with_the_shells_exit_status(number: signal.Signals, exit_code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}") as caught, interrupts.raised():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == exit_code
    assert signal.getsignal(number) is before


def test_a_second_signal_does_not_interrupt_the_cleaning_up() -> None:
    cleaned = []

    def work() -> None:
        with interrupts.raised():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                cleaned.append(True)

    with pytest.raises(Interrupted):
        work()
    assert cleaned == [True]


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
