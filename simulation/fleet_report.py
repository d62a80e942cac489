"""docs/results/fleet.md and fleet.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout_loadtests.formatting import markdown_table

from simulation.service import CPU, GPU, PRICE_PER_HOUR

if TYPE_CHECKING:
    from simulation.fleet import Day, Verdict


def write(
    directory: Path,
    about: Mapping[str, str],
    demands: Sequence[Mapping[str, Any]],
    verdicts: Mapping[str, Mapping[str, "Verdict"]],
    rows: Sequence["Day"],
) -> Path:
    """Writes both files; returns the page."""
    directory.mkdir(parents=True, exist_ok=True)
    data = {
        "about": dict(about),
        "demands": list(demands),
        "verdicts": {gpu: {model: each._asdict() for model, each in found.items()} for gpu, found in verdicts.items()},
        "days": [asdict(row) for row in rows],
    }
    (directory / "fleet.json").write_text(json.dumps(data, indent=1) + "\n")
    page = directory / "fleet.md"
    page.write_text("\n".join([*_head(about), *_demands(demands, verdicts), *_days(rows), ""]))
    return page


def _head(about: Mapping[str, str]) -> list[str]:
    return [
        "# A fleet, simulated",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        "**The GPUs, prices and demands are assumptions**; the CPU's times were measured. Each hour of a day, whose load",
        "swings between 0.15 and 1.85 of its mean, is simulated by a sample with as many pods as it needs. Pods queue and",
        f"batch like the server, by its own code. An hour of a CPU pod costs {PRICE_PER_HOUR[CPU]:.2f}, of a GPU pod",
        f"{PRICE_PER_HOUR[GPU]:.2f}.",
        "",
    ]


def _demands(demands: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Mapping[str, "Verdict"]]) -> list[str]:
    headings = ["model", "rows/s", "deadline", *(f"{gpu} GPU: cost per million on CPU, GPU, verdict" for gpu in verdicts)]
    cells = []
    for demand in demands:
        judged = [found[demand["model"]] for found in verdicts.values()]
        words = [f"{v.cost_per_million[CPU]:.4f}, {v.cost_per_million[GPU]:.4f}, **{v.device}**" for v in judged]
        cells.append([demand["model"], f"{demand['rows_per_s']:g}", f"{demand['deadline_ms']:g} ms", *words])
    return ["## Verdicts", "", *markdown_table(headings, cells), ""]


def _days(rows: Sequence["Day"]) -> list[str]:
    headings = ["GPU", "routing", "pods at the peak: CPU, GPU", "price of the day", "in time", "p50 ms", "p99 ms"]
    cells = [
        [
            row.gpu,
            row.policy + (f", {row.factor:g} times the pods" if row.factor != 1 else ""),
            f"{row.most.cpu}, {row.most.gpu}",
            f"{row.price:.2f}",
            f"{row.in_time:.1%}",
            f"{row.p50_ms:.0f}",
            f"{row.p99_ms:.0f}",
        ]
        for row in rows
    ]
    return ["## A day", "", *markdown_table(headings, cells)]
