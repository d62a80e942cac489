"""Renders results as report.html (one file, no scripts) and report.md with its charts beside it."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from turnout_loadtests.formatting import or_dash, three_digits, with_bound
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.reporting import plots
from turnout_loadtests.reporting.results import Machine, Results


def render(results: Results, folder: Path) -> list[Path]:
    """Writes the report into `folder`: report.html, report.md and the charts that the latter shows."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = plots.charts(results.summaries)
    texts = {f"{name}.svg": on_white(svg) for name, svg in charts.items()}
    inline = {name: Markup(in_page(svg)) for name, svg in charts.items()}  # our own SVG
    facts = {
        "results": results,
        "rows": [row(each) for each in results.summaries],
        "machines": [(machine, surroundings(machine)) for machine in results.machines],
        "devices": devices(results),
        "charts": inline,
        "commands": list(dict.fromkeys(cell.command for cell in results.cells if cell.round)),
    }
    for name in ("report.html", "report.md"):
        texts[name] = _templates().get_template(f"{name}.j2").render(facts)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def row(summary: Summary) -> dict[str, str]:
    """A summary as the texts of a table's row; dashes if its numbers can't be used."""
    usable, latency = summary.state != INVALID, summary.latency

    def shown(value: float | None, scale: float = 1.0) -> str:
        return or_dash(value / scale if usable and value is not None else None)

    def bounded(name: str) -> str:
        return with_bound(latency.of(name), latency.upper(name)) if usable else or_dash(None)

    key = summary.key
    return {
        "model": key.model,
        "device": key.device,
        "scenario": key.scenario,
        "batch": str(key.batch),
        "load": f"{key.rate_per_s:g}/s" if key.rate_per_s else f"{key.in_flight} in flight",
        "rows/s": ("≥ " if usable and (summary.headroom or 2.0) > 1.05 else "") + shown(summary.rows_per_s),
        "p50 ms": bounded("p50"),
        "p90 ms": bounded("p90"),
        "p99 ms": bounded("p99"),
        "queue ms": shown(summary.queue_us, 1e3),
        "compute ms": shown(summary.compute_us, 1e3),
        "busy": "" if summary.busy_share is None else f"{summary.busy_share:.0%}",
        "failures": str(summary.failures),
        "rounds": f"{summary.usable} of {summary.rounds}",
        "state": summary.state,
        "reasons": "; ".join(summary.reasons),
    }


def devices(results: Results) -> list[str]:
    """Each model's devices with threads, instances, provider and precision, and with what is known of price and power."""
    lines = []
    for model, found in results.facts.items():
        for facts in found:
            own = [each for each in results.summaries if (each.key.model, each.key.device) == (model, facts.name)]
            precisions = {name for each in own for name in each.precisions}
            price = "" if facts.price_per_hour is None else f"; {facts.price_per_hour:g}/h ({facts.price_source})"
            power = "" if facts.power is None else f"; {facts.power.idle_w:g} to {facts.power.max_w:g} W ({facts.power_source})"
            lines.append(f"{model} on {facts.described(sorted(precisions))}{price}{power}")
    return lines


def surroundings(machine: Machine) -> dict[str, str]:
    """The rows of the report's table about a machine; `unknown` for what couldn't be read."""
    about, floor = machine.environment, machine.floor
    where = "the same machine" if machine.local else "another machine"
    cores = "each on cores of their own" if machine.pinned else "on shared cores"
    return {
        "CPU": about.processor,
        "Memory": about.memory,
        "GPU": "; ".join(about.gpus) or "none visible",
        "System": about.system,
        "Server": machine.server,
        "Versions": ", ".join(f"{name} {number}" for name, number in about.versions.items()),
        "Senders": f"{machine.processes} on {where} as the server" + (f", {cores}" if machine.local else ""),
        "Floor": "unknown"
        if floor is None
        else f"a call without inference takes {three_digits(floor.p50_ms)} ms; at most {three_digits(floor.per_s)} calls/s",
        "Power without load": _idle(machine),
        "Command": machine.command,
        "Begun": machine.started,
        "Took": f"{machine.took_s:.0f} s",
    }


def in_page(svg: str) -> str:
    """The chart for use within HTML: without an XML header, its text in the page's colour."""
    return svg[svg.index("<svg") :].replace(plots.INK, "currentColor")


def on_white(svg: str) -> str:
    """The chart as a file of its own, with a background because a viewer may show it on any colour."""
    return svg.replace("<svg ", '<svg style="background: white" ', 1)


def _idle(machine: Machine) -> str:
    known: Sequence[str] = [f"{name} {watts:.0f} W" for name, watts in machine.idle_w.items()]
    return ", ".join(known) or "not measured"


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("turnout_loadtests.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(digits=three_digits, or_dash=or_dash)
    return templates
