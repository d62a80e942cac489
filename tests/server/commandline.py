"""The settings of a process, as its command line and its environment give them."""

from collections.abc import Sequence
from typing import Any

from turnout_server import settings_sources
from turnout_server.cli import flags
from turnout_server.settings import DoctorSettings, Settings


def read(arguments: Sequence[str]) -> Settings:
    """Those of a server."""
    return settings_sources.read(_given(arguments), Settings)


def read_for_doctor(arguments: Sequence[str]) -> DoctorSettings:
    """Those of the doctor."""
    return settings_sources.read(_given(arguments), DoctorSettings)


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    context = flags.SettingsCommand("turnout-server", params=flags.options()).make_context("turnout-server", list(arguments))
    return flags.given(context.params)
