"""`turnout-server`: reads the settings, serves until SIGTERM or SIGINT, and exits with 0 once drained.

`turnout-server doctor` prints what each device is and what is missing; `turnout-server explain` prints where a request would
run, and why; `turnout-server health` says whether a server is ready, and `turnout-server top` what it is doing.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from turnout_server import settings_sources
from turnout_server.cli import health
from turnout_server.cli.doctor import command as doctor
from turnout_server.cli.explain import command as explain
from turnout_server.cli.top import command as top
from turnout_server.core.errors import ServingError
from turnout_server.observability.log_settings import LogSettings

if TYPE_CHECKING:
    from turnout_server.app import Server

logger = logging.getLogger("turnout_server")

_SUBCOMMANDS = {"doctor": doctor.main, "explain": explain.main, "health": health.main, "top": top.main}


def main() -> None:
    """Runs the command line."""
    subcommand = _SUBCOMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        sys.exit(_server(sys.argv[1:]) if subcommand is None else subcommand(sys.argv[2:]))
    except settings_sources.UsageError as error:
        sys.exit(_print_error(str(error), 2))


def _server(arguments: Sequence[str]) -> int:
    """Serves until a signal stops it; returns the exit status."""
    chosen = settings_sources.read(arguments)
    handler = logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("turnout_server").setLevel(logging.DEBUG)  # LogSettings decides which records are shown
    log = LogSettings(handler, chosen.log_level, "json" if chosen.log_format == "json" else "default")
    try:
        from turnout_server.app import Server  # noqa: PLC0415, fails where ONNX Runtime is broken

        server = Server(chosen, log)
    except ImportError as error:
        return _print_error(f"{error}; 'turnout-server doctor' has the fix", 1)
    except (OSError, ServingError) as error:
        return _print_error(str(error), 1)
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
    stop.wait()
    logger.info("draining")
    server.stop()
    logger.info("stopped")


def _print_error(text: str, code: int) -> int:
    for line in text.splitlines():
        print(f"turnout-server: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
