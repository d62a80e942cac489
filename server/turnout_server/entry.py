"""The first module of the command `turnout-server`: from its import on the program can be stopped.

Importing the rest takes half a second. As process 1 of a container, a program without a handler for SIGTERM never receives the
signal, so that one stopped in its first moments would run until it is killed, ten or thirty seconds later.
"""

import os
import signal


def main() -> None:
    """Runs the command line; until it sets a handler of its own, SIGTERM ends the process at once, with 0."""
    # Not by sys.exit(): a module that is being imported may catch that, and threads that already run would be waited for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from turnout_server.__main__ import main as command  # noqa: PLC0415, this import is what takes long

    command()
