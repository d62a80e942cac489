"""`turnout-export`, also as `python -m turnout_exporter`."""

from turnout_cli import family

NAME = "turnout-export"
# What an export needs, and the extra that contains it; onnxruntime comes from `cpu` or `gpu`, which exclude each other.
_NEEDED = {"rich": "export", "torch": "export", "onnx": "export", "onnxscript": "export", "onnxruntime": "cpu"}


def main() -> None:
    """Runs the command line, or exits with what to install first."""
    family.require(NAME, _NEEDED)
    from turnout_exporter.cli import export_command  # noqa: PLC0415 (imports the packages that were just looked for)

    family.run(export_command, NAME)


if __name__ == "__main__":
    main()
