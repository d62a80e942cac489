"""The command line of `turnout-export`."""

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from turnout_exporter.errors import ExportError, SpecError
from turnout_exporter.pipeline import Request, export
from turnout_exporter.repository.publish import Destination
from turnout_exporter.spec.inputspec import dims_of, parse_inputs
from turnout_exporter.spec.points import DEFAULT_MAX_BATCH_SIZE, limit_all, parse_range, plan
from turnout_exporter.spec.sources import Source, parse_kwarg
from turnout_exporter.terminal import Terminal, show_error

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


_EXAMPLE = """\b
Example:
  turnout-export model.py:build --weights model.safetensors --name faces --repository models \\
      --input 'image=float32[batch,3,224,224]@0:1'
"""  # click rewraps paragraphs, except after \b


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLE)
@click.argument("source", metavar="SOURCE")
@click.option("--name", required=True, help="The model's name in the repository.")
@click.option(
    "--repository",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The model repository; created if it doesn't exist.",
)
@click.option(
    "--input",
    "inputs",
    required=True,
    multiple=True,
    metavar="NAME=DTYPE[DIMS]@LOW:HIGH",
    help="An input: numbers are fixed dimensions, names are free ones, `batch` is the batch axis. Values are drawn from LOW up "
    "to but without HIGH. Integers need this range; floats are standard normal without it. Repeatable.",
)
@click.option("--weights", type=_FILE, help="A state dict, .safetensors or written by torch.save; it must fit exactly.")
@click.option("--kwarg", "kwargs", multiple=True, metavar="NAME=VALUE", help="An argument of the factory. Repeatable.")
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="DIM=LOW..HIGH",
    help="The sizes that a free dimension may have, both ends included and verified. Repeatable.",
)
@click.option("--output-names", metavar="A,B", help="Names for the outputs, in order, instead of those from forward.")
@click.option("--labels", type=_FILE, help="A file with the names of the classes, one per line.")
@click.option(
    "--max-batch-size",
    type=click.IntRange(min=0),
    help=f"The most rows of a batch; a batch of this size is verified. 0: never batch requests.  [default: the end of "
    f"--range batch, else {DEFAULT_MAX_BATCH_SIZE}]",
)
@click.option("--version", default=1, show_default=True, type=click.IntRange(min=1), help="The version to publish as.")
@click.option("--force", is_flag=True, help="Replace this version, and a config.pbtxt that it doesn't fit.")
@click.option("--verbose", is_flag=True, help="On an error, also show where in the code it happened.")
def export_command(verbose: bool, **arguments: Any) -> None:
    """Exports a PyTorch model to ONNX, verifies that it gives the same outputs, and publishes it.

    SOURCE names a function that returns the model, or its class: module:attr or file.py:attr. Importing it runs its code.
    """
    try:
        request = _request(**arguments)
        with Terminal(Console()) as terminal:
            result = export(request, terminal)
        terminal.published(result)
    except Exception as error:  # the boundary of the process: users get a message, and a traceback only with --verbose
        show_error(Console(stderr=True), error, verbose)
        sys.exit(error.exit_code if isinstance(error, ExportError) else 1)


def _request(
    *,
    source: str,
    name: str,
    repository: Path,
    inputs: tuple[str, ...],
    weights: Path | None,
    kwargs: tuple[str, ...],
    ranges: tuple[str, ...],
    output_names: str | None,
    labels: Path | None,
    max_batch_size: int | None,
    version: int,
    force: bool,
) -> Request:
    """The request that the arguments describe.

    Raises:
        SpecError: one of them can't be read, or two contradict each other.
    """
    specs = parse_inputs(list(inputs))
    dims = dims_of(specs)
    limits, rows = limit_all(dims, dict(parse_range(text) for text in ranges), max_batch_size)
    return Request(
        source=Source.parse(source),
        kwargs=dict(parse_kwarg(text) for text in kwargs),
        weights=weights,
        inputs=specs,
        points=plan(dims, limits),
        output_names=output_names.split(",") if output_names else None,
        labels=_read_labels(labels) if labels else (),
        max_batch_size=rows,
        destination=Destination(repository, name, version, force),
    )


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        labels = tuple(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise SpecError(f"labels {file} aren't UTF-8 text: {error}") from error
    if not labels:
        raise SpecError(f"labels {file} is empty: write one label a line")
    return labels
