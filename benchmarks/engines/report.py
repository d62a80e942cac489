"""The report of the comparison."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from turnout_loadtests.formatting import markdown_table

from benchmarks.engines.mixes import AUTO, DEADLINE_RUNS, LOAD, MIXES, Measured
from benchmarks.engines.table import Cell

#: The numbers of rows that the page shows.
SHOWN = (1, 8, 32)


def earlier(directory: Path) -> tuple[list[Cell], list[Measured]]:
    """What engines.json has; nothing if there is none."""
    path = directory / "engines.json"
    data = json.loads(path.read_text()) if path.exists() else {"cells": [], "mixes": []}
    return [Cell(**cell) for cell in data["cells"]], [Measured(**each) for each in data["mixes"]]


def write(directory: Path, about: dict[str, str], cells: Sequence[Cell], measured: Sequence[Measured]) -> str:
    """Writes engines.json and engines.md; returns the text of engines.md."""
    directory.mkdir(parents=True, exist_ok=True)
    data = {"about": about, "cells": [asdict(cell) for cell in cells], "mixes": [asdict(each) for each in measured]}
    (directory / "engines.json").write_text(json.dumps(data, indent=1) + "\n")
    page = "\n".join(_markdown(about, cells, measured))
    (directory / "engines.md").write_text(page)
    return page


def _markdown(about: dict[str, str], cells: Sequence[Cell], measured: Sequence[Measured]) -> list[str]:
    engines = list(dict.fromkeys(cell.engine for cell in cells))
    lines = ["# Engines on the same cores", "", *(f"- {key}: {value}" for key, value in about.items()), ""]
    lines += ["## Alone", ""]
    headings = ["model", "precision", "rows"]
    headings += [f"{engine}, {figure}" for engine in engines for figure in ("ms", "CPU ms")]
    headings += [f"{engines[0]} / {engine}" for engine in engines[1:]]
    headings += [f"{engine}, {figure}" for engine in engines for figure in ("error", "load s")]
    body = []
    for key in dict.fromkeys((cell.model, cell.precision, cell.rows) for cell in cells if cell.rows in SHOWN):
        row = {cell.engine: cell for cell in cells if (cell.model, cell.precision, cell.rows) == key}
        times = [figure for engine in engines for figure in (_ms(row[engine].run_ms), _ms(row[engine].cpu_ms))]
        ratios = [f"{row[engines[0]].run_ms / row[engine].run_ms:.2f}" for engine in engines[1:]]
        rest = [figure for engine in engines for figure in (f"{row[engine].error:.1g}", f"{row[engine].load_s:.2f}")]
        body.append([*map(str, key), *times, *ratios, *rest])
    lines += markdown_table(headings, body)
    lines += [
        "",
        "Medians; engines in turns. `error` is the largest difference from the first engine's outputs, as a share of the",
        "largest value; weights are random, which makes int8 models differ more than trained ones do. A ratio above 1 is in",
        "favour of the other engine.",
        "",
    ]
    return [*lines, *_mixes(measured)] if measured else lines


def _mixes(measured: Sequence[Measured]) -> list[str]:
    devices = list(dict.fromkeys(each.device for each in measured))
    single = [device for device in devices if device != AUTO]
    body = []
    for mix, parts in MIXES.items():
        share = {device: _in_time(measured, mix, device) for device in devices}
        split = [each.shares for each in measured if (each.mix, each.device) == (mix, AUTO)]
        went = ", ".join(f"{100 * statistics.median(shares[name] for shares in split):.0f} % {name}" for name in single)
        described = ", ".join(f"{name} x {rows}" for name, rows in parts)
        best = max(share[device] for device in single)
        gain = f"{share[AUTO] / best:.2f}" if best else "-"
        body.append([mix, described, *(f"{100 * share[device]:.1f}" for device in (*single, AUTO)), gain, went])
    lines = ["## Mixes of models, on one server", ""]
    lines += markdown_table(
        ["mix", "models x rows", *(f"{device}, % in time" for device in (*single, AUTO)), "auto / better one", "auto went to"],
        body,
    )
    lines += [
        "",
        f"Requests arrive at random, {LOAD:g} of what the better engine of each model carries one at a time, in equal shares",
        f"of time. The deadline is {DEADLINE_RUNS} times the longest request's time. Medians of the rounds, which take the",
        "devices in turns, with the same arrivals on each.",
        "",
    ]
    return lines


def _in_time(measured: Sequence[Measured], mix: str, device: str) -> float:
    """The median share of a mix's requests in time on a device."""
    return statistics.median(each.in_time for each in measured if (each.mix, each.device) == (mix, device))


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
