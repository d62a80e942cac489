"""`turnout-loadtest`: compares a model's devices, or renders a report again."""

import sys
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from turnout_cli import family

from turnout_loadtests import report as reports
from turnout_loadtests import results as files
from turnout_loadtests.cells import Load
from turnout_loadtests.compare import Comparison, compare
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.terminal import progress_on, show


@family.version_option
@click.group(context_settings={"show_default": True, **family.SETTINGS})
def cli() -> None:
    """Load-test models on each device of a server, and report whether they need a GPU."""


@cli.command("compare")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--host", default="127.0.0.1:8001", help="Where the server listens for gRPC.")
@click.option("--device", "devices", multiple=True, default=("cpu", "cuda"), help="Repeat for several.")
@click.option("--batch", "batches", multiple=True, default=(1, 8), type=click.IntRange(1), help="Repeat for several.")
@click.option("--users", default=4, type=click.IntRange(1), help="Requests in flight at all times.")
@click.option("--duration", default=10, type=click.IntRange(1), help="Seconds measured for each row of the table.")
@click.option("--warm-up", default=2, type=click.IntRange(0), help="Seconds of load before that, not measured.")
@click.option("--shape", "shapes", multiple=True, help="Sizes of an input's free dimensions, such as tokens:128.")
@click.option("--inputs", default="", help="An .npz with rows for each input, instead of random ones.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: reports/<time>]")
def compare_command(
    models: tuple[str, ...],
    host: str,
    devices: tuple[str, ...],
    batches: tuple[int, ...],
    users: int,
    duration: int,
    warm_up: int,
    shapes: tuple[str, ...],
    inputs: str,
    output: Path | None,
) -> None:
    """Measure each MODEL on each device at each batch, one after another, and write a report."""
    folder = output or Path("reports") / f"{datetime.now():%Y-%m-%d-%H%M%S}"
    load = Load(
        host=host, model="", device="", users=users, warm_up_s=warm_up, duration_s=duration,
        shape=" ".join(shapes), inputs=inputs,
    )  # fmt: skip
    plan, console = Comparison(models, devices, batches, load), Console()
    with progress_on(console) as progress:
        results = compare(plan, folder, ["turnout-loadtest", *sys.argv[1:]], progress)
    files.write(results, folder)
    show(console, results)
    _render(results, folder, console)


@cli.command("report")
@click.argument("path", metavar="RESULTS_JSON", type=click.Path(path_type=Path))
def report_command(path: Path) -> None:
    """Render report.html and report.md again, beside RESULTS_JSON."""
    _render(files.read(path), path.parent, Console())


def _render(results: files.Results, folder: Path, console: Console) -> None:
    reports.render(results, folder)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def main() -> None:
    """Runs the command; exits 1 with one line of text if it can't measure, 2 on wrong usage."""
    try:
        family.run(cli, "turnout-loadtest")
    except LoadTestError as error:
        sys.exit(family.fail("turnout-loadtest", str(error), 1))


if __name__ == "__main__":
    main()
