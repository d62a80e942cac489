"""Starts `turnout-loadtest`, or says what to install first."""

from turnout_cli import family

# What a load test needs, and the extra that contains it.
_NEEDED = {package: "loadtest" for package in ("jinja2", "locust", "matplotlib", "psutil", "rich", "scipy")}


def main() -> None:
    """Runs the command line, or exits with what to install first."""
    family.require("turnout-loadtest", _NEEDED)
    from turnout_loadtests.__main__ import main as run  # noqa: PLC0415 (imports the packages that were just looked for)

    run()
