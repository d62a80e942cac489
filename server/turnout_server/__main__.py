"""`turnout-server`: reads the settings, serves until SIGTERM or SIGINT, and exits with 0 once drained.

`turnout-server doctor` prints what each device is and what is missing; `turnout-server explain` prints where a request would
run, and why.
"""

import sys

from turnout_server.core.stop_signals import StopSignals

SUBCOMMANDS = ("doctor", "explain")


def main() -> None:
    """Runs the command line and ends the process."""
    name, *arguments = sys.argv[1:] if sys.argv[1:2] and sys.argv[1] in SUBCOMMANDS else ("serve", *sys.argv[1:])
    signals = StopSignals() if name == "serve" else None  # before the imports, which take a while

    from turnout_server.cli import commands  # noqa: PLC0415

    sys.exit(commands.run(name, arguments, signals))


if __name__ == "__main__":
    main()
