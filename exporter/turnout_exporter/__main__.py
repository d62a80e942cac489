"""`turnout-export`, also as `python -m turnout_exporter`."""

from turnout_cli import family

NAME = "turnout-export"
# What an export needs, and the extra that contains it; onnxruntime comes from `cpu` or `gpu`, which exclude each other.
_NEEDED = {"rich": "export", "torch": "export", "onnx": "export", "onnxscript": "export", "onnxruntime": "cpu"}


def main() -> None:
    """Runs the command line, or exits with what to install first."""
<<<<<<< HEAD
    for package, extra in _NEEDED.items():
        if find_spec(package) is None:
            sys.exit(f"error: {package} is not installed: pip install 'turnout[{extra}]'")
    from turnout_exporter.cli.export import export_command  # noqa: PLC0415 (imports the packages that were just looked for)
    from turnout_exporter.cli.inspect import inspect_command  # noqa: PLC0415
    from turnout_exporter.cli.verify import verify_command  # noqa: PLC0415

    subcommands = {"verify": verify_command, "inspect": inspect_command}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in subcommands:
        subcommands[name](sys.argv[2:], prog_name=f"turnout-export {name}")
    export_command(prog_name="turnout-export")
=======
    family.require(NAME, _NEEDED)
    from turnout_exporter.cli import export_command  # noqa: PLC0415 (imports the packages that were just looked for)

    family.run(export_command, NAME)
>>>>>>> main


if __name__ == "__main__":
    main()
