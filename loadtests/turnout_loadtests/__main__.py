"""`turnout-loadtest`: compares a model's devices, renders or compares reports, and checks itself against another tool."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from turnout_cli import family

from turnout_loadtests import quantities
from turnout_loadtests.client import connect, wait_until_ready
from turnout_loadtests.compare import Options, Progress, Run
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.measuring.devices import read_settings
from turnout_loadtests.measuring.machine import usable_cores
from turnout_loadtests.measuring.server import ServerAddress, attached, started
from turnout_loadtests.plan import PROFILES, Request, stated
from turnout_loadtests.probing import Stated
from turnout_loadtests.reporting import report as reports
from turnout_loadtests.reporting import results as files
from turnout_loadtests.reporting.conclusions import concluded, merged
from turnout_loadtests.reporting.diff import difference_table, differences
from turnout_loadtests.reporting.results import UNAVAILABLE, Results
from turnout_loadtests.reporting.terminal import new_console, progress_on, show
from turnout_loadtests.reporting.thresholds import Threshold, breached, parse_threshold
from turnout_loadtests.sending.load import RANDOM
from turnout_loadtests.verify import VERIFIERS, verify

OK, FAILED, USAGE, INVALID, BREACHED, INTERRUPTED = 0, 1, 2, 3, 4, 130
#: With this many cores, some can be kept for the senders alone.
PINNING_CORES = 8


def written(read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Reads an option's value, or each of several. A text that can't be read is wrong usage, with what its reader says."""

    def value_of(context: click.Context, option: click.Parameter, given: Any) -> Any:
        try:
            if isinstance(given, tuple):
                return tuple(read(text) for text in given)
            return None if given is None else read(given)
        except LoadTestError as error:
            raise click.BadParameter(str(error), context, option) from error

    return value_of


@family.version_option
@click.group(context_settings={"show_default": True, **family.SETTINGS})
def cli() -> None:
    """Load-test models on each device of a server, and report whether they need a GPU.

    Exit status: 0 if everything is valid, 1 if nothing could be measured, 2 on wrong usage, 3 if something is invalid or
    missing, 4 if a --fail-on is breached, 130 if interrupted.
    """


@cli.command("compare")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--host", default="127.0.0.1:8001", help="Where a running server listens for gRPC.")
@click.option("--metrics", default="", metavar="HOST:PORT", help="Its metrics page. [default: port 8002 beside 8001]")
@click.option("--model-repository", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Start a server on it.")
@click.option("--config", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The server's settings file.")
@click.option("--device", "devices", multiple=True, default=("cpu", "cuda"), help="cpu+int8 asks for a precision. Repeat.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="quick", help="How thorough.")
@click.option(
    "--slo-p99", metavar="DURATION", callback=written(quantities.duration_ms), help="Latency target for p99, such as 50ms."
)
@click.option(
    "--load", "loads", multiple=True, metavar="RATE", callback=written(quantities.rate_per_s),
    help="Requests per second to compare at: 100/s. Repeat.",
)  # fmt: skip
@click.option(
    "--price", "prices", multiple=True, metavar="DEVICE=PRICE/h", callback=written(quantities.price),
    help="Price of an hour: cpu=0.34/h. Repeat.",
)  # fmt: skip
@click.option(
    "--cpu-power", metavar="IDLE,MAX", callback=written(quantities.power_model),
    help="Watts of the CPU when idle and at full load, to model its energy.",
)  # fmt: skip
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(1), help="Rows in a request. Repeat. [default: profile's]"
)
@click.option("--in-flight", type=click.IntRange(1), help="Requests in flight in the Offline scenario. [default: what fills]")
@click.option("--client-processes", type=click.IntRange(1), help="Processes that send. [default: one per 4 cores, at most 4]")
@click.option("--rounds", type=click.IntRange(1), help="Repetitions of each measurement. [default: by profile]")
@click.option("--window", type=click.FloatRange(0.5), metavar="SECONDS", help="Least length of each. [default: by profile]")
@click.option("--shape", "shapes", multiple=True, help="Sizes of an input's free dimensions, such as tokens:128.")
@click.option("--payload", default=RANDOM, help="Rows to send: random, golden (needs --model-repository), or an .npz.")
@click.option("--ready-timeout", default=600, type=click.IntRange(1), help="Seconds for the server to become ready.")
@click.option(
    "--fail-on", "thresholds", multiple=True, metavar="CONDITION", callback=written(parse_threshold),
    help="Exit with 4 if this holds, such as 'cuda.p99_ms>50'. Repeat.",
)  # fmt: skip
@click.option("--merge", "others", multiple=True, type=click.Path(path_type=Path), help="Results of another machine. Repeat.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: reports/<time>]")
def compare_command(models: tuple[str, ...], output: Path | None, **given: Any) -> None:
    """Measure each MODEL on each device in turns, and write a report.

    Attaches to a running server, or starts one on a --model-repository.
    """
    console, folder = new_console(), output or Path("reports") / f"{datetime.now():%Y-%m-%d-%H%M%S}"
    request, options = request_of(models, given), _options(given)
    others = [files.read(path) for path in given["others"]]
    with progress_on(console) as shown:
        progress = replace(
            shown,
            written=lambda results: files.write(results, folder),
            sampled=lambda cell, samples: samples.save(folder / "samples" / f"{cell.file_name}.npz"),
        )
        results, status = measured(request, options, _Server(given, folder), progress)
    if results is None:
        sys.exit(status)
    nothing = why_nothing(results)
    results = merged(results, others)
    files.write(results, folder)
    show(console, results)
    _render(results, folder, console)
    broken = _say_breached(results, given["thresholds"], console)
    if nothing and not status:
        family.fail("turnout-loadtest", nothing, FAILED)
    sys.exit(status or (BREACHED if broken else FAILED if nothing else exit_status(results)))


@cli.command("report")
@click.argument("path", metavar="RESULTS_JSON", type=click.Path(path_type=Path))
@click.option("--merge", "others", multiple=True, type=click.Path(path_type=Path), help="Results of another machine. Repeat.")
@click.option(
    "--fail-on", "thresholds", multiple=True, metavar="CONDITION", callback=written(parse_threshold),
    help="Exit with 4 if this holds, such as 'cuda.p99_ms>50'. Repeat.",
)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="[default: beside RESULTS_JSON]")
def report_command(path: Path, others: tuple[Path, ...], thresholds: tuple[Threshold, ...], output: Path | None) -> None:
    """Render the report of RESULTS_JSON again."""
    results = merged(concluded(files.read(path)), [files.read(other) for other in others])
    console = new_console()
    _render(results, output or path.parent, console)
    sys.exit(BREACHED if _say_breached(results, thresholds, console) else OK)


@cli.command("diff")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def diff_command(before: Path, after: Path) -> None:
    """Show what changed between the results BEFORE and AFTER. Exit status 3 if something became worse."""
    found = differences(files.read(before), files.read(after))
    new_console().print(difference_table(found))
    sys.exit(INVALID if any(each.is_worse for each in found) else OK)


@cli.command("verify")
@click.argument("model")
@click.option("--with", "tool", type=click.Choice(list(VERIFIERS)), default="perf_analyzer", help="The other tool.")
@click.option("--path", default="", help="Where the other tool is. [default: on PATH, or in .venv-perf]")
@click.option("--host", default="127.0.0.1:8001", help="Where a running server listens for gRPC.")
@click.option("--device", default="cpu", help="The device to measure on.")
@click.option("--shape", "shapes", multiple=True, help="Sizes of an input's free dimensions, such as tokens:128.")
@click.option("--rounds", default=3, type=click.IntRange(2), help="How often each of the two measures.")
def verify_command(model: str, tool: str, path: str, host: str, device: str, shapes: tuple[str, ...], rounds: int) -> None:
    """Measure one load of MODEL in turns with this tool and another one, and compare the results."""
    agreement = verify(host, model, device, " ".join(shapes), VERIFIERS[tool](path), rounds)
    click.echo(agreement.text)
    sys.exit(OK if agreement.verified else INVALID)


def measured(request: Request, options: Options, server: "_Server", progress: Progress) -> tuple[Results | None, int]:
    """Runs a comparison; the results that there are, and INTERRUPTED if it was; otherwise the exit status is theirs."""
    run: Run | None = None
    try:
        with server.running(progress) as address:
            run = Run(request, server.placed(options), address, progress)
            complete = run.measure()
            return run.results(complete=complete), OK
    except KeyboardInterrupt:
        return (run.results(complete=False) if run else None), INTERRUPTED


@dataclass(frozen=True)
class _Server:
    """The server that the options mean: a running one, or one to start."""

    given: dict[str, Any]
    folder: Path

    @contextmanager
    def running(self, progress: Progress) -> Iterator[ServerAddress]:
        """The server's address, once it is ready."""
        if self.given["model_repository"] is None:
            yield self._ready(attached(self.given["host"], self.given["metrics"]), progress)
            return
        progress.begun("starting the server", 0.0)
        log = self.folder / "server.log"
        with started(self.given["model_repository"], self.given["config"], log, progress.tick, self._split()[0]) as address:
            yield self._ready(address, progress)

    def placed(self, options: Options) -> Options:
        """The options with the cores that server and senders have for themselves."""
        server, senders = self._split()
        own = len(server or ()) or (usable_cores() if self.given["model_repository"] else 0)
        return replace(options, sender_cores=tuple(sorted(senders or ())), stated=replace(options.stated, server_cores=own))

    def _split(self) -> tuple[set[int] | None, set[int] | None]:
        """The cores of the server and those of the senders, if the server is started here and there are cores to spare."""
        return (
            split_cores(sorted(_affinity()), self.given["client_processes"]) if self.given["model_repository"] else (None, None)
        )

    def _ready(self, address: ServerAddress, progress: Progress) -> ServerAddress:
        limit_s = float(self.given["ready_timeout"])
        progress.begun(f"waiting for the server to be ready, at most {limit_s:.0f} s", limit_s)
        wait_until_ready(connect(address.host), limit_s, progress.tick, address.check)
        return address


def split_cores(cores: Sequence[int], processes: int | None) -> tuple[set[int] | None, set[int] | None]:
    """The cores for the server and for the senders; None for both if there are too few to spare some."""
    if len(cores) < PINNING_CORES:
        return None, None
    for_senders = min(len(cores) // 4, max(2, processes or default_processes(len(cores))))
    return set(cores[:-for_senders]), set(cores[-for_senders:])


def default_processes(cores: int) -> int:
    """How many processes send, unless the user states it."""
    return max(1, min(4, cores // 4))


def exit_status(results: Results) -> int:
    """0 if everything is valid, or named as unavailable on this machine."""
    failed = [gap for gap in results.gaps if gap.kind != UNAVAILABLE]
    return INVALID if failed or results.unusable() or not results.complete else OK


def why_nothing(results: Results) -> str:
    """Why nothing could be measured; empty if something was."""
    if results.cells:
        return ""
    gaps = "; ".join(f"{gap.what}: {gap.reason}" for gap in results.gaps)
    return f"nothing could be measured: {gaps or 'no model runs on these devices'}"


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def request_of(models: tuple[str, ...], given: dict[str, Any]) -> Request:
    """What these options ask for; each model, device and load once."""
    return Request(
        models=tuple(dict.fromkeys(models)),
        devices=tuple(dict.fromkeys(given["devices"])),
        profile=stated(PROFILES[given["profile"]], given["rounds"], given["window"]),
        batches=given["batches"],
        target_ms=given["slo_p99"],
        loads_per_s=tuple(dict.fromkeys(given["loads"])),
        in_flight=given["in_flight"] or 0,
        shape=" ".join(given["shapes"]),
        payload=given["payload"],
        repository=str(given["model_repository"] or ""),
    )


def _options(given: dict[str, Any]) -> Options:
    return Options(
        command=shlex.join(["turnout-loadtest", *sys.argv[1:]]),
        processes=given["client_processes"] or default_processes(usable_cores()),
        stated=Stated(
            prices=dict(given["prices"]),
            cpu_power=given["cpu_power"],
            settings=read_settings(given["config"]),
        ),
    )


def _render(results: Results, folder: Path, console: Console) -> None:
    reports.render(results, folder)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _say_breached(results: Results, thresholds: Sequence[Threshold], console: Console) -> bool:
    """Says which of the conditions hold, or can't be checked; whether there are any."""
    broken = breached(results, thresholds)
    for text in broken:
        console.print(f"--fail-on: {text}", highlight=False, soft_wrap=True)
    return bool(broken)


def _interrupt(number: int, frame: object) -> None:
    """Ends a comparison as Ctrl-C does: the server that it started must not go on, and what was measured is kept."""
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command; exits 1 with one line of text if it can't measure, 2 on wrong usage."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        family.run(cli, "turnout-loadtest")
    except LoadTestError as error:
        sys.exit(family.fail("turnout-loadtest", str(error), FAILED))


if __name__ == "__main__":
    main()
