"""The command line of `turnout-export`."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from turnout_exporter.cli.terminal import Terminal, exits_with_message
from turnout_exporter.conversion import AUTO, KEEPING_VALUES, OPSETS, exporters
from turnout_exporter.errors import SpecError
from turnout_exporter.pipeline import Request, export
from turnout_exporter.repository.publish import Destination
from turnout_exporter.spec.inputspec import InputSpec, dims_of, parse_inputs
from turnout_exporter.spec.points import DEFAULT_MAX_BATCH_SIZE, batch_limits, check_ranges, parse_range
from turnout_exporter.spec.sources import Function, Kind, Source, parse_kwarg
from turnout_exporter.spec.tasks import TASKS, parse_task
from turnout_exporter.variants import MAX_ERRORS, MAX_METRIC_DROP, Rules, parse_max_error

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


_EPILOG = f"""\b
Examples:
  turnout-export model.py:build --weights model.safetensors --name faces --repository models \\
      --input 'image=float32[batch,3,224,224]@0:1'
  turnout-export model.py:Tagger --name tagger --repository models \\
      --input 'ids=int64[batch,seq]@0:30000' --input 'mask=mask[batch,seq]' --variant int8
  turnout-export my-bert/ --name bert --repository models

\b
Also: turnout-export verify DIR, turnout-export inspect DIR (a version's folder, such as models/faces/1)

\b
Tasks: {", ".join(TASKS[:7])},
  {", ".join(TASKS[7:])}
"""  # click rewraps paragraphs, except after \b


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
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
    multiple=True,
    metavar="NAME=TYPE[DIMS]@LOW:HIGH",
    help="An input: numbers are fixed dimensions, names are free ones, `batch` is the batch axis. Values are drawn from LOW up "
    "to but without HIGH. Integers need this range; floats are standard normal without it. TYPE may also be `mask`, `padding` "
    "or `lengths` (NAME=lengths[batch]<=seq). Repeatable; not needed for models with a configuration, or with --task.",
)
@click.option("--task", help="What the model is for, instead of --input: see below.")
@click.option("--weights", type=_FILE, help="A state dict, .safetensors or written by torch.save; it must fit exactly.")
@click.option("--weights-key", default="", help="Where in a checkpoint the state dict is, such as state_dict.")
@click.option("--strip-prefix", default="", help="What to remove from the start of the keys of the weights, such as module.")
@click.option("--kwarg", "kwargs", multiple=True, metavar="NAME=VALUE", help="An argument of the factory. Repeatable.")
@click.option(
    "--samples",
    metavar="MODULE:FUNCTION",
    help="A function from sizes, such as {'batch': 2, 'seq': 3}, to inputs by name: for values that depend on each other, and "
    "for the calibration of int8.",
)
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="DIM=LOW..HIGH[/STEP]",
    help="The sizes that a free dimension may have, both ends included and verified; found out without it. Repeatable.",
)
@click.option("--outputs", metavar="A,B", help="The outputs to publish, by the names in forward's answer.  [default: all]")
@click.option("--output-names", metavar="A,B", help="Names for the outputs, in order, instead of those from forward.")
@click.option("--labels", type=_FILE, help="A file with the names of the classes, one per line.")
@click.option("--preprocessing", type=_FILE, help="A JSON file that says how inputs are made; it is published with the model.")
@click.option(
    "--max-batch-size",
    type=click.IntRange(min=0),
    help=f"The most rows of a batch; a batch of this size is verified. 0: never batch requests.  [default: the end of "
    f"--range batch, else {DEFAULT_MAX_BATCH_SIZE}]",
)
@click.option(
    "--exporter",
    type=click.Choice([AUTO, *OPSETS]),
    default=AUTO,
    show_default=True,
    help="torch's exporter; auto tries the second one if exporting or verifying with the first one fails.",
)
@click.option("--opset", type=click.IntRange(min=1), help="The version of ONNX's operators.  [default: 20]")
@click.option(
    "--variant",
    "variants",
    type=click.Choice([*MAX_ERRORS]),
    multiple=True,
    help="Another precision to publish beside the original, in a file of its own. Repeatable.",
)
@click.option(
    "--max-error",
    "max_errors",
    multiple=True,
    metavar="VARIANT=SHARE",
    help=f"The largest error of a variant that is published, as a share of an output's largest value.  [default: "
    f"{', '.join(f'{name}={limit}' for name, limit in MAX_ERRORS.items())}]",
)
@click.option(
    "--metric",
    metavar="MODULE:FUNCTION",
    help="A function that judges the model: it gets a function from inputs to outputs, and returns a number or some by name.",
)
@click.option(
    "--max-metric-drop",
    type=click.FloatRange(min=0),
    default=MAX_METRIC_DROP,
    show_default=True,
    help="By how much a variant's metric may be below the original's. With --metric this decides instead of --max-error.",
)
@click.option(
    "--reference",
    metavar="MODULE:FUNCTION",
    help="For an .onnx file: a function from inputs by name to the right outputs, such as the original model's predictions.",
)
@click.option("--version", default=1, show_default=True, type=click.IntRange(min=1), help="The version to publish as.")
@click.option("--force", is_flag=True, help="Replace this version, and a config.pbtxt that it doesn't fit.")
@click.option("--verbose", is_flag=True, help="On an error, also show where in the code it happened.")
def export_command(verbose: bool, **arguments: Any) -> None:
    """Exports a model to ONNX, verifies that it gives the same outputs, and publishes it.

    SOURCE is a class, a function that returns the model, or a model: module:attr or file.py:attr. Importing it runs its code.
    It may also be an exported program (.pt2, which can run code as well), a folder of transformers, or an ONNX file.
    """
    with exits_with_message(verbose, unless_published="nothing was published"):
        request = _request(**arguments)
        with Terminal(Console()) as terminal:
            result = export(request, terminal)
        terminal.published(result)


def _request(
    *,
    source: str,
    name: str,
    repository: Path,
    inputs: tuple[str, ...],
    task: str | None,
    weights: Path | None,
    weights_key: str,
    strip_prefix: str,
    kwargs: tuple[str, ...],
    samples: str | None,
    ranges: tuple[str, ...],
    outputs: str | None,
    output_names: str | None,
    labels: Path | None,
    preprocessing: Path | None,
    max_batch_size: int | None,
    exporter: str,
    opset: int | None,
    variants: tuple[str, ...],
    max_errors: tuple[str, ...],
    metric: str | None,
    max_metric_drop: float,
    reference: str | None,
    version: int,
    force: bool,
) -> Request:
    """The request that the arguments describe.

    Raises:
        SpecError: one of them can't be read, or two contradict each other.
    """
    destination = Destination(repository, name, version, force)
    parsed_source = Source.parse(source)
    is_onnx = parsed_source.kind is Kind.ONNX
    _check_applies(
        is_onnx,
        {
            "--weights": weights,
            "--kwarg": kwargs,
            "--task": task,
            "--outputs": outputs,
            "--output-names": output_names,
            "--opset": opset,
        },
        "an ONNX file",
    )
    _check_applies(not is_onnx, {"--reference": reference}, "a model that isn't an ONNX file")
    parsed_ranges = dict(parse_range(text) for text in ranges)
    specs = parse_inputs(list(inputs))
    if specs and not is_onnx and parsed_source.kind is not Kind.PROGRAM:
        check_ranges(dims_of(specs), parsed_ranges)
        batch_limits(dims_of(specs), parsed_ranges, max_batch_size)
    if not samples:
        _check_values(specs)
    return Request(
        source=parsed_source,
        destination=destination,
        kwargs=dict(parse_kwarg(text) for text in kwargs),
        weights=weights,
        weights_key=weights_key,
        strip_prefix=strip_prefix,
        task=parse_task(task) if task else "",
        inputs=[str(spec) for spec in specs],
        ranges=parsed_ranges,
        samples=Function.parse(samples, "--samples") if samples else None,
        selected=_names(outputs),
        output_names=_names(output_names),
        labels=_read_labels(labels) if labels else (),
        preprocessing=_read_json(preprocessing) if preprocessing else {},
        max_batch_size=max_batch_size,
        exporters=exporters(exporter, opset),
        keep_values=exporter == KEEPING_VALUES,
        opset=opset,
        variants=tuple(dict.fromkeys(variants)),
        rules=Rules(
            MAX_ERRORS | dict(parse_max_error(text) for text in max_errors),
            Function.parse(metric, "--metric") if metric else None,
            max_metric_drop,
        ),
        reference=Function.parse(reference, "--reference") if reference else None,
    )


def _check_applies(is_refused: bool, options: dict[str, object], what: str) -> None:
    for option, value in options.items():
        if is_refused and value:
            raise SpecError(f"{option} does not apply to {what}")


def _check_values(specs: list[InputSpec]) -> None:
    for spec in specs:
        if spec.needs_values:
            raise SpecError(
                f"input '{spec}': integers need the range of values that they take, the end excluded: "
                f"{spec}@0:1000 for an index into 1000 entries; or --samples, or mask, padding, lengths as the type"
            )


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",")] if text else None


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        labels = tuple(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise SpecError(f"labels {file} aren't UTF-8 text: {error}") from error
    if not labels:
        raise SpecError(f"labels {file} is empty: write one label a line")
    return labels


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(f"preprocessing {file} isn't JSON: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(f"preprocessing {file} holds a {type(content).__name__}, not an object")
    return content
