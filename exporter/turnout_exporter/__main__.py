"""`turnout-export`, also as `python -m turnout_exporter`."""

import sys

from turnout_cli import family

NAME = "turnout-export"
# What an export needs, and the extra that contains it; onnxruntime comes from `cpu` or `gpu`, which exclude each other.
_NEEDED = {"rich": "export", "torch": "export", "onnx": "export", "onnxscript": "export", "onnxruntime": "cpu"}


def main() -> None:
    """Runs the command line, or exits with what to install first."""
    family.require(NAME, _NEEDED)
    from turnout_exporter.cli.export import export_command  # noqa: PLC0415 (imports the packages that were just looked for)
    from turnout_exporter.cli.inspect import inspect_command  # noqa: PLC0415
    from turnout_exporter.cli.verify import verify_command  # noqa: PLC0415

    subcommands = {"verify": verify_command, "inspect": inspect_command}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in subcommands:
        family.run(subcommands[name], f"{NAME} {name}", sys.argv[2:])
    family.run(export_command, NAME)


if __name__ == "__main__":
    main()
