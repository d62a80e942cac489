"""The medians of the rounds, and the report."""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from turnout_loadtests import environment
from turnout_loadtests.formatting import markdown_table

#: The server whose rate is the numerator of every ratio.
OURS = "turnout, completion queue"
#: The packages whose versions a report has.
PACKAGES = ("turnout", "grpcio", "onnxruntime", "numpy", "protobuf")


@dataclass(frozen=True)
class Row:
    """One server under one load: one measurement, or the medians of several.

    Attributes:
        contestant: the server's name.
        rate: answers per second.
        cpu_us: the CPU time of the server's processes per request.
        rss_mb: the memory of the server's processes after the load.
    """

    case: str
    clients: int
    contestant: str
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    rss_mb: float


def medians(rows: Sequence[Row]) -> list[Row]:
    """One row for each server and load, in the order of the first round."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case, row.clients, row.contestant), []).append(row)
    measured = ("rate", "p50_ms", "p99_ms", "cpu_us", "rss_mb")
    return [
        Row(*key, *(statistics.median(getattr(row, name) for row in group) for name in measured))
        for key, group in groups.items()
    ]


def about(module: str) -> dict[str, str]:
    """The head of a report: the machine, its load before the measurement, the command that runs this module, and the date."""
    machine = environment.describe(PACKAGES)
    return {
        "processor": machine.processor,
        "memory": machine.memory,
        "system": machine.system,
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "load average before": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def write(directory: Path, about: dict[str, str], rows: Sequence[Row], idle: dict[str, float], notes: Sequence[str]) -> None:
    """Writes benchmarks.json, with every round, and benchmarks.md, with the medians."""
    directory.mkdir(parents=True, exist_ok=True)
    data = {"about": about, "rows": [asdict(row) for row in rows], "idle": idle, "notes": list(notes)}
    (directory / "benchmarks.json").write_text(json.dumps(data, indent=1) + "\n")
    (directory / "benchmarks.md").write_text(_markdown(about, medians(rows), idle, notes))


def _markdown(about: dict[str, str], rows: Sequence[Row], idle: dict[str, float], notes: Sequence[str]) -> str:
    lines = ["# Benchmarks", "", *(f"- {key}: {value}" for key, value in about.items()), *(f"- {note}" for note in notes), ""]
    lines += ["## Requests a second: Turnout's as a multiple of each other server's", ""]
    loads = list(dict.fromkeys((row.case, row.clients) for row in rows))
    names = [name for name in dict.fromkeys(row.contestant for row in rows) if name != OURS]
    by_key = {(row.case, row.clients, row.contestant): row for row in rows}
    lines += markdown_table(
        ["model, clients", *names],
        [[f"{case}, {clients}", *(_ratio(by_key, case, clients, name) for name in names)] for case, clients in loads],
    )
    headings = ["server", "requests/s", "p50 ms", "p99 ms", "server CPU us/request", "RSS MB"]
    for case, clients in loads:
        lines += ["", f"## {case}, {clients} client{'s' if clients > 1 else ''}", ""]
        chosen = [row for row in rows if (row.case, row.clients) == (case, clients)]
        lines += markdown_table(
            headings,
            [
                [r.contestant, f"{r.rate:.0f}", f"{r.p50_ms:.2f}", f"{r.p99_ms:.2f}", f"{r.cpu_us:.0f}", f"{r.rss_mb:.0f}"]
                for r in chosen
            ],
        )
    lines += ["", "## Idle, all models loaded", "", *(f"- {name}: {value:.2f}" for name, value in idle.items()), ""]
    return "\n".join(lines)


def _ratio(by_key: dict[tuple[str, int, str], Row], case: str, clients: int, name: str) -> str:
    ours, other = by_key.get((case, clients, OURS)), by_key.get((case, clients, name))
    return f"{ours.rate / other.rate:.2f}" if ours and other else ""
