"""The output of a comparison on a terminal, or in a log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from turnout_loadtests.cells import Cell, Load
from turnout_loadtests.compare import Progress as Callbacks
from turnout_loadtests.formatting import or_dash, three_digits
from turnout_loadtests.results import Results, Skipped


def cells_table(cells: Sequence[Cell]) -> Table:
    """One line per cell; a dash for a percentile that had too few samples."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "device"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", "requests/s", "p50 ms", "p95 ms", "p99 ms", "failures"):
        table.add_column(column, justify="right", no_wrap=True)
    for cell in cells:
        latencies = (or_dash(value) for value in (cell.service_p50_ms, cell.service_p95_ms, cell.service_p99_ms))
        failures = f"[red]{cell.failures}[/]" if cell.failures else "0"
        table.add_row(cell.model, cell.device, str(cell.batch), three_digits(cell.requests_per_s), *latencies, failures)
    return table


def show(console: Console, results: Results) -> None:
    """Prints the table and the verdicts."""
    console.print()
    console.print(cells_table(results.cells))
    console.print()
    for verdict in results.verdicts:
        console.print(f"[bold]{verdict.model}[/]: {escape(verdict.sentence)}", highlight=False, soft_wrap=True)


@contextmanager
def progress_on(console: Console) -> Iterator[Callbacks]:
    """Callbacks that show a progress bar; a line for each cell if the console isn't a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("asking the server", total=None)
        said: set[str] = set()

        def skipped(gap: Skipped) -> None:
            line = f"{gap.device}: not available: {gap.reason}"
            if line not in said:
                console.print(escape(line), highlight=False, soft_wrap=True)
            said.add(line)

        def begun(load: Load, number: int, total: int) -> None:
            text = f"load test {number}/{total}: {load.model} on {load.device}, batch {load.batch}"
            bars.update(bar, description=text, total=1.0, completed=0.0)
            if not console.is_terminal:
                console.print(text, highlight=False, soft_wrap=True)

        yield Callbacks(skipped, begun, lambda share: bars.update(bar, completed=share))
