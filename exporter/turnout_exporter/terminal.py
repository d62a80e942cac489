"""The output of the command: steps with their durations, the comparison as a table, what was written.

If the output isn't a terminal, the same lines are printed without colour or animation.
"""

import time
from traceback import format_exception
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from turnout_exporter.compare import Comparison
from turnout_exporter.errors import ExportError
from turnout_exporter.pipeline import Published


class Terminal:
    """Shows the progress of one export; leaving the context manager ends the last step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""
        self._began = 0.0
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._end("[red]✗[/]" if error else "[green]✓[/]")

    def step(self, title: str) -> None:
        """Marks the previous step as successful and begins this one."""
        self._end("[green]✓[/]")
        self._title, self._began = escape(title), time.monotonic()
        self._status = Status(self._title, console=self._console)
        self._status.start()

    def _end(self, mark: str) -> None:
        if self._status is None:
            return
        self._status.stop()
        self._status = None
        self._console.print(f"{mark} {self._title} [dim]{time.monotonic() - self._began:.1f} s[/]", highlight=False)

    def compared(self, comparisons: list[Comparison]) -> None:
        """Prints one row for each point: the output that is closest to its limit there."""
        self._end("[red]✗[/]" if any(c.problem for c in comparisons) else "[green]✓[/]")
        table = Table("  point", "output", box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
        for title in ("max error", "relative", "allowed"):
            table.add_column(title, justify="right")
        table.add_column()
        for point in dict.fromkeys(comparison.point for comparison in comparisons):
            worst = max((c for c in comparisons if c.point == point), key=_nearness)
            table.add_row(*_row(worst))
        self._console.print(table)

    def published(self, result: Published) -> None:
        """Say what is served now, and where it lies."""
        rows = result.max_batch_size
        self._line(f"inputs   {', '.join(map(str, result.signature.inputs))}")
        self._line(f"outputs  {', '.join(map(str, result.signature.outputs))}")
        self._line(f"batch    {f'up to {rows} rows run together' if rows else 'none: axis 0 is not a batch everywhere'}")
        self._line(f"Published {result.directory}", style="bold green")
        for file in sorted(result.directory.iterdir()):
            self._line(f"  {file.name:16} {decimal(file.stat().st_size):>10}")

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _nearness(comparison: Comparison) -> float:
    return comparison.max_abs_error / comparison.allowed if comparison.allowed else comparison.max_abs_error


def _row(worst: Comparison) -> list[str]:
    numbers = (worst.max_abs_error, worst.max_rel_error, worst.allowed)
    verdict = "[red]✗ differs[/]" if worst.problem else "[green]✓[/]"
    return [f"  {escape(worst.point)}", escape(worst.output), *(f"{number:.1e}" for number in numbers), verdict]


def show_error(console: Console, error: Exception, verbose: bool) -> None:
    """Prints one message; with `verbose`, also where in the code it happened."""
    if verbose:
        detail = error.detail if isinstance(error, ExportError) else ""
        console.print(detail or "".join(format_exception(error)), markup=False, highlight=False, soft_wrap=True)
    if not isinstance(error, ExportError):
        error = ExportError(f"unexpected {type(error).__name__}: {error} (--verbose shows where; please report it)")
    console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
