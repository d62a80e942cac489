"""`turnout-export`, also as `python -m turnout_exporter`."""

import sys

from turnout_cli import family, installation

NAME = "turnout-export"
# What an export needs, and the extra that contains it; onnxruntime comes from `cpu` or `gpu`, which exclude each other.
_NEEDED = {"rich": "export", "torch": "export", "onnx": "export", "onnxscript": "export", "onnxruntime": "cpu"}


def main() -> None:
    """Runs the command line, or exits with what to install first."""
    if sys.argv[1:] == ["--version"]:  # with a value it is the version to publish as
        print(NAME, installation.version())
        return
    if (text := installation.missing(_NEEDED)) is not None:
        sys.exit(family.fail(NAME, text, 1))
    from turnout_exporter.cli import export_command  # noqa: PLC0415 (imports the packages that were just looked for)

    family.run(export_command, NAME)


if __name__ == "__main__":
    main()
