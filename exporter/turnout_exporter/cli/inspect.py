"""`turnout-export inspect`: what a published version or an ONNX file is, and which providers can run it."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.filesize import decimal

from turnout_exporter import children
from turnout_exporter.cli.terminal import Terminal, exits_with_message
from turnout_exporter.errors import ExportError
from turnout_exporter.jobs import Inspected, InspectJob, TryJob
from turnout_exporter.version_folder import VersionFolder

_SHOWN_CHARACTERS = 100


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--verbose", is_flag=True, help="On an error, also show where in the code it happened.")
def inspect_command(path: Path, verbose: bool) -> None:
    """Shows the signature, the operators, the parameters and the size of a model, and which providers can run it.

    PATH is a version's folder, such as models/faces/1, or an ONNX file.
    """
    console = Console()
    with exits_with_message(verbose):
        with Terminal(console) as terminal, tempfile.TemporaryDirectory(prefix="turnout-inspect-") as directory:
            files = [path] if path.is_file() else _files(VersionFolder.open(path))
            pages = [page for file in files for page in ["", *_page(file, Path(directory), terminal)]]
        for line in pages[1:]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _files(version: VersionFolder) -> list[Path]:
    return [version.path / name for name in version.models]


def _page(file: Path, directory: Path, terminal: Terminal) -> list[str]:
    """The lines about one file."""
    job = InspectJob(str(file))
    found = Inspected(
        **children.run("turnout_exporter.runtime.inspect", f"Reading {file.name}", asdict(job), directory, terminal)
    )
    nbytes = sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))
    operators = ", ".join(f"{name} {count}" for name, count in found.operators.items())
    lines = [
        f"{file}",
        f"  size        {decimal(nbytes)}, {found.parameters:,} parameters, opset {found.opset}",
        *(f"  input       {text}" for text in found.inputs),
        *(f"  output      {text}" for text in found.outputs),
        f"  operators   {sum(found.operators.values())}: {operators}",
    ]
    verdicts = [f"  {provider:27} {_verdict(file, provider, directory, terminal)}" for provider in found.providers]
    return lines + verdicts + [f"  {key:27} {_abridged(value)}" for key, value in found.metadata.items()]


def _verdict(file: Path, provider: str, directory: Path, terminal: Terminal) -> str:
    """Whether a provider can run a file, or why not."""
    job = TryJob(str(file), provider)
    try:
        children.run("turnout_exporter.runtime.attempt", f"Opening {file.name} on {provider}", asdict(job), directory, terminal)
    except ExportError as error:
        return f"no: {str(error).splitlines()[0]}"
    return "can run it"


def _abridged(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} ..."
