"""Renders results as report.html (one file, no scripts) and report.md with its charts beside it."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from turnout_loadtests import plots
from turnout_loadtests.cells import CLIENT_LIMIT_CPU, CLIENT_LIMITED, NOISY, NOISY_PRESSURE_PERCENT, Cell
from turnout_loadtests.formatting import ms, or_dash, three_digits
from turnout_loadtests.results import Results

#: What each flag on a cell means.
FLAGS = {
    "no answers": "no request was answered in the measured time",
    "failures": "some requests failed; they are counted, and left out of every latency and throughput",
    CLIENT_LIMITED: f"the sending process used over {CLIENT_LIMIT_CPU:.0%} of its core, so the server may be faster",
    NOISY: f"before the load, other work kept tasks waiting for a processor over {NOISY_PRESSURE_PERCENT:.0f} % of the time",
}


def render(results: Results, folder: Path) -> list[Path]:
    """Writes the report into `folder`: report.html, report.md and the charts that the latter shows."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = plots.charts(results.cells)
    texts = {f"{name}.svg": on_white(svg) for name, svg in charts.items()}
    inline = {name: Markup(in_page(svg)) for name, svg in charts.items()}  # our own SVG
    facts = {"results": results, "notes": notes(results.cells), "facts": surroundings(results), "charts": inline}
    for name in ("report.html", "report.md"):
        texts[name] = _templates().get_template(f"{name}.j2").render(facts)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def notes(cells: Sequence[Cell]) -> dict[str, str]:
    """The meanings of the flags that these cells have."""
    return {flag: meaning for flag, meaning in FLAGS.items() if any(flag in cell.flags for cell in cells)}


def surroundings(results: Results) -> dict[str, str]:
    """The rows of the report's table about the environment; `unknown` for what couldn't be read."""
    machine = results.environment
    return {
        "CPU": machine.processor,
        "Memory": machine.memory,
        "GPU": "; ".join(machine.gpus) or "none visible",
        "System": machine.system,
        "Server": results.server,
        "Versions": ", ".join(f"{name} {number}" for name, number in machine.versions.items()),
        "Other load": noise(results.cells),
    }


def noise(cells: Sequence[Cell]) -> str:
    """The highest CPU pressure from other work that was seen before a cell."""
    known = [cell.idle_pressure_percent for cell in cells if cell.idle_pressure_percent is not None]
    return f"CPU pressure up to {max(known):.1f} % while idle before each row" if known else "unknown"


def in_page(svg: str) -> str:
    """The chart for use within HTML: without an XML header, its text in the page's colour."""
    return svg[svg.index("<svg") :].replace(plots.INK, "currentColor")


def on_white(svg: str) -> str:
    """The chart as a file of its own, with a background because a viewer may show it on any colour."""
    return svg.replace("<svg ", '<svg style="background: white" ', 1)


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("turnout_loadtests"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(ms=ms, digits=three_digits, or_dash=or_dash)
    return templates
