"""`turnout-server serve`: serves until SIGTERM or SIGINT."""

import gc
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from turnout_cli import installation
from turnout_cli.family import SETTINGS, fail, version_option

from turnout_server import settings_sources
from turnout_server.cli import flags
from turnout_server.core.errors import ServingError
from turnout_server.observability.log_settings import LogSettings
from turnout_server.settings import Settings

if TYPE_CHECKING:
    from turnout_server.app import Server

logger = logging.getLogger("turnout_server")

#: Ctrl-C interrupts no longer wait on Windows.
WAIT_S = 0.5 if sys.platform == "win32" else None
_EPILOG = """\b
Every option is also a variable, such as TURNOUT_GRPC_PORT, and a key of the --config file, such as grpc_port.

\b
Examples:
  turnout-server serve --model-repository models
  turnout-server serve --model-repository models --host 0.0.0.0 --default-device cuda,cpu
"""


@version_option
@click.command(
    "serve",
    cls=flags.SettingsCommand,
    params=flags.options(),
    context_settings=SETTINGS,
    short_help="Serve a repository of ONNX models.",
    epilog=_EPILOG,
)
def serve(**parameters: Any) -> int:
    """Serve a repository of ONNX models over gRPC, until SIGTERM or SIGINT; exits with 0 once drained."""
    chosen = settings_sources.read(flags.given(parameters), Settings)
    if (text := installation.missing({"onnxruntime": "cpu"})) is not None:
        return fail("turnout-server", text, 1)
    handler = logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("turnout_server").setLevel(logging.DEBUG)  # LogSettings decides which records are shown
    log = LogSettings(handler, chosen.log_level, "json" if chosen.log_format == "json" else "default")
    try:
        from turnout_server.app import Server  # noqa: PLC0415, fails where ONNX Runtime is broken

        server = Server(chosen, log)
    except ImportError as error:
        return fail("turnout-server", f"{error}; 'turnout-server doctor' has the fix", 1)
    except (OSError, ServingError) as error:
        return fail("turnout-server", str(error), 1)
    _serve(server)
    return 0


def _serve(server: "Server") -> None:
    stop = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.is_set():  # a second signal ends the process at once
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    # Requests create no reference cycles, but a few hundred of their objects are alive at a time, enough to start the collector
    # again and again. With its default thresholds it takes a tenth of a small request's CPU time.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    server.start()
    while not stop.wait(WAIT_S):
        pass
    logger.info("draining")
    server.stop()
    logger.info("stopped")
