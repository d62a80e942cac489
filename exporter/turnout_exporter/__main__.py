"""`turnout-export`, also as `python -m turnout_exporter`."""

import sys
from importlib.util import find_spec

# What an export needs, and the extra that contains it; onnxruntime comes from `cpu` or `gpu`, which exclude each other.
_NEEDED = {"click": "export", "rich": "export", "torch": "export", "onnxscript": "export", "onnxruntime": "cpu"}


def main() -> None:
    """Runs the command line, or exits with what to install first."""
    for package, extra in _NEEDED.items():
        if find_spec(package) is None:
            sys.exit(f"error: {package} is not installed: pip install 'turnout[{extra}]'")
    from turnout_exporter.cli import export_command  # noqa: PLC0415 (imports the packages that were just looked for)

    export_command(prog_name="turnout-export")


if __name__ == "__main__":
    main()
