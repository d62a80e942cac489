"""Charts as SVG text: bars labelled with their numbers, one panel per model."""

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.sending.load import OFFLINE, SINGLE_STREAM

mpl.use("Agg")

#: One colour per device; blue and orange differ for every kind of colour vision, on white and on black.
COLOURS = ("#3b82f6", "#f97316", "#14b8a6", "#a855f7")
INK = "#1f2328"  # in the HTML report it is replaced by the page's text colour
WIDTH_INCHES, BAR_INCHES = 4.9, 0.28


def charts(summaries: Sequence[Summary]) -> dict[str, str]:
    """The charts of throughput and median latency, by file name without its ending; a chart without data is left out."""
    usable = [each for each in summaries if each.state != INVALID]
    full = [each for each in usable if each.key.scenario == OFFLINE and each.rows_per_s]
    single = [each for each in usable if each.key.scenario == SINGLE_STREAM and each.latency.p50_ms is not None]
    drawn = {}
    if full:
        title = "rows per second, as many requests in flight as fill the device (more is better)"
        drawn["throughput"] = _panels("throughput", title, full, lambda each: each.rows_per_s, _rate)
    if single:
        title = "milliseconds for one request at a time, p50 (less is better)"
        drawn["latency"] = _panels("latency", title, single, lambda each: each.latency.p50_ms, _times)
    return drawn


def _panels(
    name: str,
    title: str,
    summaries: Sequence[Summary],
    value: Callable[[Summary], float | None],
    label: Callable[[Summary], str],
) -> str:
    models = list(dict.fromkeys(each.key.model for each in summaries))
    colour_of = dict(zip(dict.fromkeys(each.key.device for each in summaries), COLOURS * len(summaries), strict=False))
    groups = [[each for each in summaries if each.key.model == model] for model in models]
    rows = [len(group) for group in groups]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(WIDTH_INCHES, 0.5 + sum(BAR_INCHES * count + 0.45 for count in rows)), layout="constrained")
        figure.suptitle(title, color=INK, fontsize=10, x=0.01, ha="left")
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=[count + 0.6 for count in rows])
        for axes, model, group in zip(panels[:, 0], models, groups, strict=False):
            bars = [value(each) or 0.0 for each in group]
            _bars(axes, bars, [colour_of[each.key.device] for each in group])
            axes.set_yticks(range(len(group)), [f"{each.key.device}, batch {each.key.batch}" for each in group], color=INK)
            axes.set_title(model, loc="left", fontsize=10, fontweight="bold", color=INK)
            for row, each in enumerate(group):
                axes.annotate(label(each), (bars[row], row), (5, 0), textcoords="offset points", va="center", color=INK)
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


def _rate(summary: Summary) -> str:
    return three_digits(summary.rows_per_s or 0.0)


def _times(summary: Summary) -> str:
    tail = "" if summary.latency.p95_ms is None else f" (p95 {three_digits(summary.latency.p95_ms)})"
    return f"{three_digits(summary.latency.p50_ms or 0.0)}{tail}"
