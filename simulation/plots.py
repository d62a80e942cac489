"""Charts of the results: goodput by scenario and policy, and by load."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from simulation.results import Result
from simulation.run_all import FIRST_IDLE, OURS, PLAIN, THRESHOLD
from simulation.scenarios import Scenario
from simulation.sweep import CARRIED_SHARE, Point

mpl.use("Agg")

#: The policies in the charts and their colours; the tables have all policies.
COLOURS = {
    "CPU only": "#d4d4d8",
    "GPU only": "#a1a1aa",
    "shortest queue": "#14b8a6",
    PLAIN: "#e879f9",
    FIRST_IDLE: "#a855f7",
    THRESHOLD: "#f97316",
    OURS: "#3b82f6",
}
INK, PAPER = "#1f2328", "#ffffff"
#: The width of a group of bars in inches, and of a bar as a share of it.
GROUP_INCHES, BAR = 1.15, 0.12


def goodput(rows: Sequence[Result]) -> str:
    """An SVG with a group of bars for each scenario: the share of requests that each policy answered in time."""
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    with _style():
        figure = Figure(figsize=(1.2 + GROUP_INCHES * len(scenarios), 3.4), layout="constrained", facecolor=PAPER)
        axes = figure.subplots()
        for place, (policy, colour) in enumerate(COLOURS.items()):
            heights = {row.scenario: 100 * row.in_time for row in rows if row.policy == policy}
            lefts = [at + BAR * (place - (len(COLOURS) - 1) / 2) for at in range(len(scenarios))]
            axes.bar(lefts, [heights[scenario] for scenario in scenarios], BAR * 0.9, color=colour, label=policy)
        axes.set_title("answered by their deadline, % of all requests", loc="left", fontsize=10, color=INK)
        axes.set_xticks(range(len(scenarios)), scenarios, color=INK)
        axes.set_ylim(0, 100)
        axes.tick_params(length=0, labelcolor=INK)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(COLOURS), frameon=False)
        return _svg(figure)


def loads(scenarios: Sequence[Scenario], points: Sequence[Point]) -> str:
    """An SVG with a panel for each scenario: the share of requests in time over the load, a line for each policy."""
    with _style():
        figure = Figure(figsize=(10.5, 5.6), layout="constrained", facecolor=PAPER)
        panels = figure.subplots(2, -(-len(scenarios) // 2), sharex=True, sharey=True)
        drawn: dict[str, Artist] = {}
        for scenario, axes in zip(scenarios, panels.flat, strict=False):
            for policy, colour in COLOURS.items():
                line = [point for point in points if (point.scenario, point.policy) == (scenario.name, policy)]
                if line:
                    xs, ys = [point.load for point in line], [100 * point.in_time for point in line]
                    (drawn[policy],) = axes.plot(xs, ys, color=colour, lw=2.2 if policy == OURS else 1.4)
            axes.axhline(100 * CARRIED_SHARE, color=INK, lw=0.7, ls=":")
            axes.axvline(scenario.load, color=INK, lw=0.7, ls=":")
            axes.set_title(scenario.name, loc="left", fontsize=10, color=INK)
            axes.set_ylim(0, 102)
            axes.set_xlim(left=0)
            axes.tick_params(length=0, labelcolor=INK)
            axes.spines[["top", "right"]].set_visible(False)
        title = "answered by their deadline, % of all requests, by load; dotted: 95 %, and the load of the bars above"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
        figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=len(drawn), frameon=False)
        return _svg(figure)


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "routing", "font.family": "sans-serif", "font.size": 9})


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
