"""Charts as SVG text: bars labelled with their numbers, one panel per model."""

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from turnout_loadtests.cells import Cell
from turnout_loadtests.formatting import three_digits

mpl.use("Agg")

#: One colour per device; blue and orange differ for every kind of colour vision, on white and on black.
COLOURS = ("#3b82f6", "#f97316", "#14b8a6", "#a855f7")
INK = "#1f2328"  # in the HTML report it is replaced by the page's text colour
WIDTH_INCHES, BAR_INCHES = 4.9, 0.28


def charts(cells: Sequence[Cell]) -> dict[str, str]:
    """The charts of throughput and median latency, by file name without its ending; a chart without data is left out."""
    answered = [cell for cell in cells if cell.rows_per_s]
    timed = [cell for cell in cells if cell.service_p50_ms is not None]
    drawn = {}
    if answered:
        title = "rows per second (more is better)"
        drawn["throughput"] = _panels("throughput", title, answered, lambda cell: cell.rows_per_s, _rate)
    if timed:
        title = "milliseconds, p50 (less is better)"
        drawn["latency"] = _panels("latency", title, timed, lambda cell: cell.service_p50_ms, _times)
    return drawn


def _panels(
    name: str,
    title: str,
    cells: Sequence[Cell],
    value: Callable[[Cell], float | None],
    label: Callable[[Cell], str],
) -> str:
    models = list(dict.fromkeys(cell.model for cell in cells))
    colour_of = dict(zip(dict.fromkeys(cell.device for cell in cells), COLOURS * len(cells), strict=False))
    groups = [[cell for cell in cells if cell.model == model] for model in models]
    rows = [len(group) for group in groups]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(WIDTH_INCHES, 0.5 + sum(BAR_INCHES * count + 0.45 for count in rows)), layout="constrained")
        figure.suptitle(title, color=INK, fontsize=10, x=0.01, ha="left")
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=[count + 0.6 for count in rows])
        for axes, model, group in zip(panels[:, 0], models, groups, strict=False):
            bars = [value(cell) or 0.0 for cell in group]
            _bars(axes, bars, [colour_of[cell.device] for cell in group])
            axes.set_yticks(range(len(group)), [f"{cell.device}, batch {cell.batch}" for cell in group], color=INK)
            axes.set_title(model, loc="left", fontsize=10, fontweight="bold", color=INK)
            for row, cell in enumerate(group):
                axes.annotate(label(cell), (bars[row], row), (5, 0), textcoords="offset points", va="center", color=INK)
        return _svg(figure)


def _bars(axes: Axes, lengths: Sequence[float], colours: Sequence[str]) -> None:
    axes.barh(range(len(lengths)), lengths, color=colours, height=0.72)
    axes.set_xlim(0, max(lengths) * 1.5)  # room for the label of the longest bar
    axes.invert_yaxis()
    axes.patch.set_alpha(0)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _rate(cell: Cell) -> str:
    return three_digits(cell.rows_per_s)


def _times(cell: Cell) -> str:
    tail = "" if cell.service_p95_ms is None else f" (p95 {three_digits(cell.service_p95_ms)})"
    return f"{three_digits(cell.service_p50_ms or 0.0)}{tail}"
