"""Runs one command of `turnout-server`."""

from collections.abc import Sequence

from turnout_server.cli.doctor import command as doctor
from turnout_server.cli.explain import command as explain
from turnout_server.cli.serve import serve
from turnout_server.cli.textpage import print_error
from turnout_server.core.stop_signals import StopSignals
from turnout_server.settings_sources import UsageError


def run(name: str, arguments: Sequence[str], signals: StopSignals | None) -> int:
    """Runs `doctor` or `explain`, or serves until one of `signals` stops it; returns the exit status."""
    try:
        if signals is not None:
            return serve(arguments, signals)
        return doctor.main(arguments) if name == "doctor" else explain.main(arguments)
    except UsageError as error:
        return print_error(str(error), 2)
