"""The results as one chart: goodput by scenario and policy."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.routing.contest import FIRST_IDLE, OURS, THRESHOLD
from benchmarks.routing.figures import Figures

mpl.use("Agg")

#: What is drawn, and how; the others are in the tables.
COLOURS = {
    "CPU only": "#d4d4d8",
    "GPU only": "#a1a1aa",
    "shortest queue": "#14b8a6",
    FIRST_IDLE: "#a855f7",
    THRESHOLD: "#f97316",
    OURS: "#3b82f6",
}
INK = "#1f2328"
INCHES_EACH, BAR = 1.05, 0.14


def goodput(rows: Sequence[Figures]) -> str:
    """An SVG: for each scenario a group of bars, the share of requests that was answered in time."""
    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "routing", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(1.2 + INCHES_EACH * len(scenarios), 3.4), layout="constrained")
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
        axes.patch.set_alpha(0)
        figure.legend(loc="outside lower center", ncols=len(COLOURS), frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue()
