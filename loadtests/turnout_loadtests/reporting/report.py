"""Renders results as report.html (one file, which reads without its script) and report.md with its charts beside it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from turnout_loadtests.formatting import or_dash, three_digits
from turnout_loadtests.judging.answer import NEEDED, NO, OPEN, UNDECIDED, YES, Answer
from turnout_loadtests.judging.economics import USABLE
from turnout_loadtests.judging.ladder import WIDEST_MS, shown_targets
from turnout_loadtests.judging.verdict import Evidence
from turnout_loadtests.reporting import plots, tables
from turnout_loadtests.reporting.conclusions import evidence_of
from turnout_loadtests.reporting.plots import Chart
from turnout_loadtests.reporting.results import Machine, Results
from turnout_loadtests.reporting.tables import Table

#: A word and a mark for each kind of answer, so that it doesn't depend on colour.
BADGES = {NO: ("No", "✓"), YES: ("Yes", "€"), NEEDED: ("Yes", "!"), OPEN: ("Open", "?"), UNDECIDED: ("Undecided", "?")}
TITLE = "Does it need a GPU?"
_SHOWN = re.compile(r"^!\[.*\]\(([^()/\\]+\.svg)\)$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """What the report says of one model. `anchor` is the id of its part of the page."""

    anchor: str
    answer: Answer
    detail: str
    grid: Table
    costs: list[Table]
    charts: list[Chart]


def render(results: Results, folder: Path) -> list[Path]:
    """Writes the report into `folder`: report.html, report.md and the charts that the latter shows.

    Charts of an earlier report that this one doesn't have are deleted; other files stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    anchors = distinct(results.models)
    sections = [section_of(results, evidence_of(results, model), f"model-{anchors[model]}") for model in results.models]
    timeline = plots.timeline(results.cells)
    every = [chart for section in sections for chart in section.charts] + ([timeline] if timeline else [])
    names = distinct([chart.name for chart in every])
    texts = {f"{names[chart.name]}.svg": on_white(chart.svg) for chart in every}
    facts = {
        "title": TITLE,
        "results": results,
        "sections": sections,
        "badges": BADGES,
        "tables": tables.answers(results),
        "measurements": tables.measurements(results),
        "timeline": timeline,
        "files": {name: f"{plain}.svg" for name, plain in names.items()},
        "machines": [(machine, surroundings(machine)) for machine in results.machines],
        "devices": devices(results),
        "commands": list(dict.fromkeys(cell.command for cell in results.cells if cell.round)),
        "numbers": numbers(results),
        "targets": shown_targets(results.target_ms),
        "usable": USABLE,
    }
    for name in ("report.html", "report.md"):
        texts[name] = _templates().get_template(f"{name}.j2").render(facts)
    for name in charts_shown(folder / "report.md") - texts.keys():
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def section_of(results: Results, evidence: Evidence, anchor: str) -> Section:
    """Everything about one model."""
    target_ms = results.target_ms or WIDEST_MS
    offers = tables.offers_of(results, evidence, target_ms)
    found = next(each for each in results.answers if each.model == evidence.model)
    detail = next(each.sentence for each in results.verdicts if each.model == evidence.model)
    costs = [tables.cost(results, evidence, target_ms), tables.data_sets(results, evidence)]
    return Section(
        anchor,
        found,
        detail,
        tables.grid(results, evidence),
        [table for table in costs if table.rows],
        plots.charts_of(evidence.model, results.summaries, results.cells, offers, results.target_ms),
    )


def numbers(results: Results) -> str:
    """What the page's script computes with, as JSON: for each model its devices, prices, and what they carry by target.

    `most` has the targets within which that is only known to be at least so much: the device carries less than this, or null.
    """
    models = []
    for model in results.models:
        evidence = evidence_of(results, model)
        offers = [(f"{target:g}", tables.offers_of(results, evidence, target)) for target in shown_targets(results.target_ms)]
        found: list[dict[str, Any]] = []
        for device in evidence.measured:
            mine = {target: offer for target, each in offers for offer in each if offer.device == device}
            rates = {target: offer.capacity_per_s for target, offer in mine.items()}
            most = {target: offer.most_per_s for target, offer in mine.items() if offer.at_least}
            found.append({"name": device, "price": evidence.facts[device].price_per_hour, "carries": rates, "most": most})
        models.append({"name": model, "devices": found})
    return json.dumps(models).replace("<", "\\u003c")  # so that no name can end the script's element


def devices(results: Results) -> list[str]:
    """Each device with threads, instances, provider and precision, and with what is known of price and power, once."""
    lines = []
    for model, found in results.facts.items():
        for facts in found:
            own = [each for each in results.summaries if (each.key.model, each.key.device) == (model, facts.name)]
            precisions = {name for each in own for name in each.precisions}
            price = "" if facts.price_per_hour is None else f"; {facts.price_per_hour:g}/h ({facts.price_source})"
            power = "" if facts.power is None else f"; {facts.power.idle_w:g} to {facts.power.max_w:g} W ({facts.power_source})"
            lines.append(f"{facts.described(sorted(precisions))}{price}{power}")
    return list(dict.fromkeys(lines))


def surroundings(machine: Machine) -> dict[str, str]:
    """The rows of the report's table about a machine; `unknown` for what couldn't be read."""
    about, floor = machine.environment, machine.floor
    where = "the same machine" if machine.local else "another machine"
    server = "the client's machine" if machine.local else "another machine, whose hardware is unknown here"
    cores = "each on cores of their own" if machine.pinned else "on shared cores"
    return {
        "Client's CPU": about.processor,
        "Client's memory": about.memory,
        "Client's GPU": "; ".join(about.gpus) or "none visible",
        "Client's system": about.system,
        "Server": f"{machine.server}, on {server}",
        "Versions": ", ".join(f"{name} {number}" for name, number in about.versions.items()),
        "Models": ", ".join(f"{name}: sha256 {digest}" for name, digest in machine.model_hashes.items())
        or "unknown: the server was running already",
        "Senders": f"{machine.processes} on {where} as the server" + (f", {cores}" if machine.local else ""),
        "Floor": "unknown"
        if floor is None
        else f"a call without inference takes {three_digits(floor.p50_ms)} ms; at most {three_digits(floor.per_s)} calls/s",
        "Power without load": _idle(machine),
        "Command": machine.command,
        "Begun": machine.started,
        "Took": f"{machine.took_s:.0f} s",
    }


def distinct(names: Sequence[str]) -> dict[str, str]:
    """A word for each name that can be a file's name and an id; no two are alike, also where upper case counts as lower."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        plain = word = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name)
        number = 1
        while word.casefold() in taken:
            number += 1
            word = f"{plain}-{number}"
        taken.add(word.casefold())
        found[name] = word
    return found


def charts_shown(path: Path) -> set[str]:
    """The names of the charts that a report.md shows, beside which they lie; none if the file isn't a report's."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    return set(_SHOWN.findall(text)) if text.startswith(f"# {TITLE}\n") else set()


def in_page(chart: Chart) -> Markup:
    """The chart for use within HTML: without an XML header, its text in the page's colour, its ids its own."""
    svg = chart.svg[chart.svg.index("<svg") :].replace(plots.INK, "currentColor")
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))  # our own SVG; the figure has its text


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
    templates.filters.update(digits=three_digits, or_dash=or_dash, in_page=in_page, cell=_cell)
    return templates


def _cell(text: str) -> str:
    """A text within a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
