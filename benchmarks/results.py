"""Medians of the rounds, and the report: ratios first."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import psutil

#: What every ratio is relative to.
OURS = "turnout, completion queue"


@dataclass(frozen=True)
class Row:
    """One contestant under one load: one measurement, or the medians of several.

    Attributes:
        cpu_us: CPU of the server's processes for each request.
        rss_mb: memory of the server's processes after the load.
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
    """One row for each contestant and load, in the order of the first round."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case, row.clients, row.contestant), []).append(row)
    figures = ("rate", "p50_ms", "p99_ms", "cpu_us", "rss_mb")
    return [
        Row(*key, *(statistics.median(getattr(row, figure) for row in group) for figure in figures))
        for key, group in groups.items()
    ]


def machine() -> dict[str, str]:
    """Where this was measured."""
    packages = ("turnout", "grpcio", "onnxruntime", "numpy", "protobuf")
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return {
        "processor": f"{processor}, {psutil.cpu_count()} logical cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in packages),
        "load average before": "{:.1f} {:.1f} {:.1f}".format(*psutil.getloadavg()),
    }


def write(directory: Path, about: dict[str, str], rows: Sequence[Row], idle: dict[str, float], notes: Sequence[str]) -> None:
    """Writes benchmarks.json (every round) and benchmarks.md (medians)."""
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
    lines += table(
        ["model, clients", *names],
        [[f"{case}, {clients}", *(_ratio(by_key, case, clients, name) for name in names)] for case, clients in loads],
    )
    headings = ["server", "requests/s", "p50 ms", "p99 ms", "server CPU us/request", "RSS MB"]
    for case, clients in loads:
        lines += ["", f"## {case}, {clients} client{'s' if clients > 1 else ''}", ""]
        chosen = [row for row in rows if (row.case, row.clients) == (case, clients)]
        lines += table(
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


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
