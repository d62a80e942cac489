"""`turnout-server`: reads the settings, serves until SIGTERM or SIGINT, and exits 0 once drained."""

import logging
import os
import signal
import sys
import threading
from types import FrameType

from turnout_server import settings
from turnout_server.app import Server
from turnout_server.errors import ServingError
from turnout_server.logsettings import LogSettings

logger = logging.getLogger("turnout_server")


def main() -> None:
    """The command."""
    try:
        chosen = settings.read(sys.argv[1:])
    except settings.UsageError as error:
        sys.exit(_complain(str(error), 2))
    handler = logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("turnout_server").setLevel(logging.DEBUG)  # what of it is shown, LogSettings decides
    log = LogSettings(handler, chosen.log_level)
    try:
        server = Server(chosen, log)
    except (OSError, ServingError) as error:
        sys.exit(_complain(str(error), 1))
    _serve(server)


def _serve(server: Server) -> None:
    stop = threading.Event()

    def asked_to_stop(number: int, _: FrameType | None) -> None:
        if stop.is_set():  # the second time means now
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked_to_stop)
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
