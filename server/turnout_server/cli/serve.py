"""Serves until a signal stops it."""

import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from turnout_server import settings_sources
from turnout_server.cli.textpage import print_error
from turnout_server.core.errors import ServingError
from turnout_server.core.stop_signals import StopSignals
from turnout_server.observability.log_settings import LogSettings

if TYPE_CHECKING:
    from turnout_server.app import Server

logger = logging.getLogger("turnout_server")

#: How long stopping may take beyond the two phases of a drain, before the process is ended with whatever hangs in it.
STOP_MARGIN_S = 10.0


def serve(arguments: Sequence[str], signals: StopSignals) -> int:
    """Serves until a signal stops it; returns the exit status of a start that failed, and else ends the process with 0."""
    chosen = settings_sources.read(arguments)
    handler = logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("turnout_server").setLevel(logging.DEBUG)  # LogSettings decides which records are shown
    log = LogSettings(handler, chosen.log_level)
    try:
        from turnout_server.app import Server  # noqa: PLC0415, fails where ONNX Runtime is broken

        server = Server(chosen, log)
    except ImportError as error:
        return print_error(f"{error}; 'turnout-server doctor' has the fix", 1)
    except (OSError, ServingError) as error:
        return print_error(str(error), 1)
    signals.serve(chosen.drain_delay_s + chosen.drain_timeout_s + STOP_MARGIN_S)
    _run(server, signals)
    logging.shutdown()
    # Ends the threads that hang in a model's code, too: the interpreter would wait for them, or abort in their midst.
    os._exit(0)


def _run(server: "Server", signals: StopSignals) -> None:
    # Requests create no reference cycles, but a few hundred of their objects are alive at a time, enough to start the collector
    # again and again. With its default thresholds it takes a tenth of a small request's CPU time.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    server.start()
    signals.wait()
    logger.info("draining")
    server.stop()
    logger.info("stopped")
