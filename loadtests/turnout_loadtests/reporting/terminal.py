"""The output of a comparison on a terminal, or in a log."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from turnout_loadtests.compare import Progress
from turnout_loadtests.formatting import or_dash, with_bound
from turnout_loadtests.judging.cells import INVALID, VALID
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.reporting.results import Results

#: Without a terminal, a step that lasts is named again after this many seconds.
SAY_AGAIN_S = 15.0
#: Of the equivalent `locust` commands so many are shown.
MAX_COMMANDS = 3
#: Characters of a line where there is no terminal.
FILE_WIDTH = 160
STYLES = {VALID: "green", INVALID: "red"}


def summaries_table(summaries: Sequence[Summary]) -> Table:
    """One line per experiment and device; a dash where there were too few answers, or no valid ones."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "device", "scenario"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", "in flight", "rows/s", "p50 ms", "p99 ms", "compute ms", "busy"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for each in summaries:
        usable = each.state != INVALID
        load = f"{each.key.rate_per_s:g}/s" if each.key.rate_per_s else str(each.key.in_flight)
        compute_ms = None if each.compute_us is None else each.compute_us / 1e3
        table.add_row(
            each.key.model,
            each.key.device,
            each.key.scenario,
            str(each.key.batch),
            load,
            or_dash(each.rows_per_s if usable else None),
            with_bound(each.latency.p50_ms, each.latency.p50_upper_ms) if usable else or_dash(None),
            with_bound(each.latency.p99_ms, each.latency.p99_upper_ms) if usable else or_dash(None),
            or_dash(compute_ms if usable else None),
            "" if each.busy_share is None else f"{each.busy_share:.0%}",
            f"[{STYLES.get(each.state, 'yellow')}]{each.state}[/]",
        )
    return table


def new_console() -> Console:
    """Standard output. A name such as `cpu:one` is no emoji, and a file has room for whole lines."""
    return Console(emoji=False) if sys.stdout.isatty() else Console(emoji=False, width=FILE_WIDTH)


def show(console: Console, results: Results) -> None:
    """Prints the table, the reasons for what isn't valid, the gaps and the verdicts."""
    console.print()
    console.print(summaries_table(results.summaries))
    for each in results.summaries:
        if each.state != VALID and each.reasons:
            where = f"{each.key.model} on {each.key.device}, {each.key.scenario}, batch {each.key.batch}"
            _line(console, f"{each.state}: {where}: {each.reasons[0]}")
    for capacity in results.capacities:
        carried = "not found" if capacity.per_s is None else f"{capacity.per_s:.4g} requests/s"
        reason = f" ({capacity.reason})" if capacity.reason else ""
        _line(console, f"{capacity.model} on {capacity.device}, within p99 <= {capacity.target_ms:g} ms: {carried}{reason}")
    for gap in results.gaps:
        _line(console, f"not measured: {gap.what}: {gap.reason}")
    console.print()
    for found, verdict in zip(results.answers, results.verdicts, strict=True):
        console.print(f"[bold]{escape(found.model)}: {escape(found.headline)}[/]", highlight=False, soft_wrap=True)
        for line in (*found.lines, verdict.sentence):
            _line(console, f"  {line}")
    if results.says_not:
        _line(console, results.says_not)
    if not results.complete:
        _line(console, "The comparison didn't come to its end; this is what was measured until then.")


@contextmanager
def progress_on(console: Console) -> Iterator[Progress]:
    """Callbacks that show a progress bar; a line for each step if the console isn't a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("starting", total=None)
        step = _Step("", 0.0, time.monotonic(), time.monotonic())
        said: set[str] = set()

        def say(text: str) -> None:
            if text not in said:
                _line(console, text)
            said.add(text)

        def begun(text: str, expected_s: float) -> None:
            nonlocal step
            step = _Step(text, expected_s, time.monotonic(), time.monotonic())
            bars.update(bar, description=text, total=expected_s or None, completed=0.0)
            if not console.is_terminal:
                _line(console, text)

        def tick() -> None:
            now_s = time.monotonic()
            bars.update(bar, completed=min(step.expected_s, now_s - step.began_s))
            if not console.is_terminal and now_s - step.said_s > SAY_AGAIN_S:
                step.said_s = now_s
                _line(console, f"{step.text} ({now_s - step.began_s:.0f} s)")

        def planned(lines: Sequence[str], takes_s: tuple[float, float], commands: Sequence[str]) -> None:
            for line in lines:
                _line(console, line)
            least, most = map(_minutes, takes_s)
            longer = "" if most == least else f", up to {most} if rounds are disturbed and repeated"
            _line(console, f"This takes about {least}{longer}. Ctrl-C ends it with a report of what was measured.")
            _line(console, "The same loads with Locust alone:")
            for command in commands[:MAX_COMMANDS]:
                _line(console, f"  {command}")
            if (more := len(commands) - MAX_COMMANDS) > 0:
                _line(console, f"  and {more} alike, with other values of --model, --device, --batch and --users")

        yield Progress(said=say, begun=begun, tick=tick, planned=planned)


class _Step:
    """The step that runs, and when it was named last."""

    def __init__(self, text: str, expected_s: float, began_s: float, said_s: float) -> None:
        self.text, self.expected_s, self.began_s, self.said_s = text, expected_s, began_s, said_s


def _line(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
