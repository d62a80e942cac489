"""`turnout-server`: reads the settings, serves until SIGTERM or SIGINT, and exits 0 once drained.

With `doctor` as its first argument, it says instead what each device is, and what is missing; with `explain`, where a request
would run and why.
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
from turnout_server.cli.doctor import command as doctor
from turnout_server.cli.explain import command as explain
from turnout_server.core.errors import ServingError
from turnout_server.observability.log_settings import LogSettings

if TYPE_CHECKING:
    from turnout_server.app import Server

logger = logging.getLogger("turnout_server")

_SUBCOMMANDS = {"doctor": doctor.main, "explain": explain.main}


def main() -> None:
    """The command."""
    subcommand = _SUBCOMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        sys.exit(_server(sys.argv[1:]) if subcommand is None else subcommand(sys.argv[2:]))
    except settings_sources.UsageError as error:
        sys.exit(_complain(str(error), 2))


def _server(arguments: Sequence[str]) -> int:
    """Serves until it is told to stop; returns the exit status."""
    chosen = settings_sources.read(arguments)
    handler = logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("turnout_server").setLevel(logging.DEBUG)  # what of it is shown, LogSettings decides
    log = LogSettings(handler, chosen.log_level)
    try:
        from turnout_server.app import Server  # noqa: PLC0415, fails where ONNX Runtime is broken

        server = Server(chosen, log)
    except ImportError as error:
        return _complain(f"{error}; 'turnout-server doctor' has the fix", 1)
    except (OSError, ServingError) as error:
        return _complain(str(error), 1)
    _serve(server)
    return 0


def _serve(server: "Server") -> None:
    stop = threading.Event()

    def asked_to_stop(number: int, _: FrameType | None) -> None:
        if stop.is_set():  # the second time means now
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked_to_stop)
    # Requests leave no cycles, but a few hundred objects of each round live at once, which has the collector look through them
    # every time: a tenth of a small request's CPU.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    server.start()
    stop.wait()
    logger.info("draining")
    server.stop()
    logger.info("stopped")


def _complain(text: str, code: int) -> int:
    for line in text.splitlines():
        print(f"turnout-server: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
