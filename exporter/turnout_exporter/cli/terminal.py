"""The output of the command: steps with their durations, the comparison as a table, what was written.

If the output isn't a terminal, the same lines are printed without colour or animation.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import format_exception
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from turnout_exporter import interrupts
from turnout_exporter.cli.next_steps import next_steps
from turnout_exporter.compare import Comparison
from turnout_exporter.errors import ExportError
from turnout_exporter.interrupts import Interrupted
from turnout_exporter.pipeline import Published
from turnout_exporter.repository.report import proven
from turnout_exporter.variants import Variant

_HEARTBEAT_S = 30.0  #: how often a long step says so where nothing is animated


class Terminal:
    """Shows the progress of one export; leaving the context manager ends the last step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""
        self._detail = ""
        self._began = 0.0
        self._spoke = 0.0
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._end("[red]✗[/]" if error else "[green]✓[/]")

    def step(self, title: str) -> None:
        """Marks the previous step as successful and begins this one."""
        self._end("[green]✓[/]")
        self._title, self._detail, self._began = escape(title), "", time.monotonic()
        self._spoke = self._began
        self._status = Status(self._title, console=self._console)
        self._status.start()

    def detail(self, text: str) -> None:
        """Shows how far the step is."""
        self._detail = f": {escape(text)}"
        self.tick()

    def tick(self) -> None:
        """Shows that the step goes on."""
        if self._status is None:
            return
        now = time.monotonic()
        line = f"{self._title}{self._detail} [dim]{now - self._began:.0f} s[/]"
        self._status.update(line)
        if not self._console.is_terminal and now - self._spoke >= _HEARTBEAT_S:
            self._spoke = now
            self._console.print(f"… {line}", highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Prints something that the user should know."""
        self._console.print(f"[yellow]![/] {escape(text)}", highlight=False, soft_wrap=True)

    def failed(self) -> None:
        """Marks the step as failed."""
        self._end("[red]✗[/]")

    def _end(self, mark: str) -> None:
        if self._status is None:
            return
        self._status.stop()
        self._status = None
        self._console.print(f"{mark} {self._title} [dim]{time.monotonic() - self._began:.1f} s[/]", highlight=False)

    def compared(self, comparisons: Sequence[Comparison]) -> None:
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
        """Says what is served now, where it lies, and what to do next."""
        self._line(f"inputs   {', '.join(map(str, result.signature.inputs))}")
        self._line(f"outputs  {', '.join(map(str, result.signature.outputs))}")
        self._line(f"batch    {_batching(result)}")
        if result.limits:
            self._line(f"sizes    {proven(result.limits)}")
        for variant in result.variants:
            self._line(f"{variant.name:8} {_outcome(variant)}")
        self._line(f"Published {result.directory} in {result.seconds:.0f} s", style="bold green")
        for file in sorted(result.directory.iterdir()):
            self._line(f"  {file.name:18} {decimal(file.stat().st_size):>10}")
        precisions = [variant.name for variant in result.variants if not variant.reason]
        for line in next_steps(result.directory, result.signature, result.limits, precisions):
            self._line(line)

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _batching(result: Published) -> str:
    if result.max_batch_size:
        return f"up to {result.max_batch_size} rows run together"
    reasons = result.signature.without_batch
    if mixed := result.signature.mixed:
        return f"none: rows of output {', '.join(map(repr, mixed))} depend on each other"
    if not reasons:
        return "off, by max_batch_size 0 in config.pbtxt"
    several = "has" if len(reasons) == 1 else "have"
    return f"none: axis 0 of {', '.join(reasons)} is not the batch, as it {several} to be everywhere"


def _outcome(variant: Variant) -> str:
    if variant.reason:
        return f"left out: {variant.reason}"
    figures = "".join(f", {name} {value:.4g}" for name, value in variant.metric.items())
    error = f"largest error {variant.max_rel_error:.1e}"
    return f"{variant.speedup:.2f} times as fast on this CPU, {error}{figures} ({variant.method})"


def _nearness(comparison: Comparison) -> float:
    return comparison.max_abs_error / comparison.allowed if comparison.allowed else comparison.max_abs_error


def _row(worst: Comparison) -> list[str]:
    numbers = (worst.max_abs_error, worst.max_rel_error, worst.allowed)
    verdict = "[red]✗ differs[/]" if worst.problem else "[green]✓[/]"
    return [f"  {escape(worst.point)}", escape(worst.output), *(f"{number:.1e}" for number in numbers), verdict]


@contextmanager
def exits_with_message(verbose: bool, unless_published: str = "") -> Iterator[None]:
    """Ends the process with one message if anything is raised; signals become an error as well.

    Args:
        verbose: also show where in the code it happened.
        unless_published: what an interruption means.
    """
    try:
        with interrupts.raised():
            yield
    except Interrupted as interruption:
        consequence = f": {unless_published}" if unless_published else ""
        Console(stderr=True).print(f"{interruption}{consequence}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(interruption.exit_code)
    except Exception as error:  # the boundary of the process: users get a message, and a traceback only with --verbose
        show_error(Console(stderr=True), error, verbose)
        sys.exit(error.exit_code if isinstance(error, ExportError) else 1)


def show_error(console: Console, error: Exception, verbose: bool) -> None:
    """Prints one message; with `verbose`, also where in the code it happened."""
    if verbose:
        detail = error.detail if isinstance(error, ExportError) else ""
        console.print(detail or "".join(format_exception(error)), markup=False, highlight=False, soft_wrap=True)
    if not isinstance(error, ExportError):
        error = ExportError(f"unexpected {type(error).__name__}: {error} (--verbose shows where; please report it)")
    console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
