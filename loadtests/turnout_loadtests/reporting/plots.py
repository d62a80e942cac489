"""The charts of a report as SVG. Each has a caption with its units and scale, and a text for those who can't see it."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID, LIMITED, VALID, Cell
from turnout_loadtests.judging.economics import Offer, cost_per_hour
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.sending.load import OFFLINE, SERVER, SINGLE_STREAM

mpl.use("Agg")

#: One colour, dash and mark for each device; blue and orange differ for every kind of colour vision, on white and on black.
COLOURS = ("#3b82f6", "#f97316", "#14b8a6", "#a855f7", "#64748b")
DASHES = ("-", "--", "-.", ":", "-")
MARKS = ("o", "s", "^", "D", "v")
STATES = {VALID: "#14b8a6", LIMITED: "#f59e0b", INVALID: "#dc2626"}
PARTS = {"Queue": "#a855f7", "Compute": "#3b82f6", "Decode": "#14b8a6", "Client, network, encode": "#94a3b8"}
INK = "#1f2328"  # in the page it is replaced by the text's colour
WIDTH, HEIGHT = 4.9, 2.9


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: of its file, without an ending.
        caption: what it shows, its units and scale, and what was left out.
        alt: what it shows, in words.
        wide: it takes the width of the page.
    """

    name: str
    caption: str
    alt: str
    svg: str
    wide: bool = False


def charts_of(
    model: str, summaries: Sequence[Summary], cells: Sequence[Cell], offers: Sequence[Offer], target_ms: float | None
) -> list[Chart]:
    """The charts of one model; those without data are left out."""
    mine = [each for each in summaries if each.key.model == model]
    loads = [cell for cell in cells if cell.model == model and cell.scenario == SERVER]
    drawn = [
        _tail_by_rate(model, loads, target_ms), _cost(model, offers), _distribution(model, mine), _busy(model, mine),
        _by_batch(model, mine), _parts(model, mine),
    ]  # fmt: skip
    return [chart for chart in drawn if chart is not None]


def timeline(cells: Sequence[Cell]) -> Chart | None:
    """All measurements over time, with what disturbed them."""
    if not cells:
        return None
    begin = (
        min(datetime.fromisoformat(cell.begun) for cell in cells if cell.begun) if any(cell.begun for cell in cells) else None
    )
    if begin is None:
        return None
    devices = list(dict.fromkeys(cell.device for cell in cells))
    minutes = [(datetime.fromisoformat(cell.begun) - begin).total_seconds() / 60 for cell in cells]
    with _figure("timeline", 2 * WIDTH, 0.9 + 0.35 * len(devices) + 1.2) as figure:
        above, below = figure.subplots(2, sharex=True, height_ratios=[max(1, len(devices)) * 0.35 + 0.3, 1.2])
        for state, colour in STATES.items():
            places = [place for place, cell in enumerate(cells) if cell.state == state]
            if places:
                above.scatter(
                    [minutes[place] for place in places], [devices.index(cells[place].device) for place in places],
                    c=colour, s=16, marker={VALID: "o", LIMITED: "^", INVALID: "x"}[state], label=state,
                )  # fmt: skip
        above.set_yticks(range(len(devices)), devices)
        above.set_ylim(len(devices) - 0.5, -0.5)
        above.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, labelcolor=INK, fontsize=8)
        lost = [(cell.machine.other_work_percent or 0.0) + (cell.machine.steal_percent or 0.0) for cell in cells]
        below.step(minutes, lost, where="post", color=INK, lw=1)
        below.set(xlabel="minutes since the start", ylabel="others, % of cores", ylim=(0, 100))
        _plain(above, below)
        svg = _svg(figure)
    counts = {state: sum(cell.state == state for cell in cells) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    caption = "Each measurement by device and state; below, the share of the cores that others took. Linear scales."
    return Chart("timeline", caption, f"Timeline of {len(cells)} measurements: {said}.", svg, wide=True)


def _tail_by_rate(model: str, loads: Sequence[Cell], target_ms: float | None) -> Chart | None:
    usable = [cell for cell in loads if cell.state != INVALID and cell.response.p99_ms is not None]
    if not usable:
        return None
    said = []
    with _figure(f"{model}-tail") as figure:
        axes = figure.subplots()
        for place, device in enumerate(_devices(usable)):
            points = _middles([cell for cell in usable if cell.device == device])
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, DASHES[place % 5], marker=MARKS[place % 5], color=COLOURS[place % 5], ms=4, lw=1.4, label=device)
            ends = " to ".join(f"p99 {three_digits(y or 0)} ms at {three_digits(x)}/s" for x, y in (points[0], points[-1]))
            said.append(f"{device}: {ends}")
        if target_ms is not None:
            axes.axhline(target_ms, color="#dc2626", lw=1, ls=(0, (4, 3)))
            axes.annotate(
                f"target {target_ms:g} ms",
                (0.01, target_ms),
                xycoords=("axes fraction", "data"),
                va="bottom",
                color=INK,
                fontsize=8,
            )
        axes.set(xscale="log", yscale="log", xlabel="requests/s offered", ylabel="p99, ms")
        _plain(axes)
        svg = _svg(figure)
    out = len(loads) - len(usable)
    left = f" {out} of {len(loads)} loads are left out: invalid, ended early, or too few answers." if out else ""
    return Chart(f"{model}-tail", f"p99 against the offered load. Logarithmic scales.{left}", "; ".join(said), svg)


def _middles(cells: Sequence[Cell]) -> list[tuple[float, float]]:
    """The rates of these loads, and the median of the p99s at each."""
    by_rate: dict[float, list[float]] = {}
    for cell in cells:
        by_rate.setdefault(cell.rate_per_s, []).append(cell.response.p99_ms or 0.0)
    return sorted((rate, median(times)) for rate, times in by_rate.items())


def _by_batch(model: str, summaries: Sequence[Summary]) -> Chart | None:
    full = [each for each in summaries if each.key.scenario == OFFLINE and each.state != INVALID and each.rows_per_s]
    if len({each.key.batch for each in full}) < 2:
        return None
    said = []
    with _figure(f"{model}-batch", 2 * WIDTH) as figure:
        rates, times = figure.subplots(1, 2)
        for place, device in enumerate(_names(full)):
            mine = sorted((each for each in full if each.key.device == device), key=lambda each: each.key.batch)
            style = {"color": COLOURS[place % 5], "ls": DASHES[place % 5], "marker": MARKS[place % 5], "ms": 4, "label": device}
            batches = [each.key.batch for each in mine]
            rates.errorbar(batches, [each.rows_per_s or 0 for each in mine], yerr=_reach(mine), capsize=3, **style)
            times.plot(batches, [each.latency.p50_ms or float("nan") for each in mine], **style)
            said.append(
                f"{device}: "
                + ", ".join(f"{three_digits(each.rows_per_s or 0)} rows/s at batch {each.key.batch}" for each in mine)
            )
        rates.set(xscale="log", yscale="log", xlabel="rows in a request", ylabel="rows/s")
        times.set(xscale="log", yscale="log", xlabel="rows in a request", ylabel="p50, ms")
        batches = sorted({each.key.batch for each in full})
        for axes in (rates, times):
            axes.set_xticks(batches, [str(batch) for batch in batches])
            axes.xaxis.set_minor_formatter(NullFormatter())
        _plain(rates, times)
        svg = _svg(figure)
    where = _crossover(full)
    caption = f"Throughput with its 99 % interval, and latency, by batch, the device filled. Logarithmic scales.{where}"
    return Chart(f"{model}-batch", caption, "; ".join(said) + where, svg, wide=True)


def _distribution(model: str, summaries: Sequence[Summary]) -> Chart | None:
    single = [each for each in summaries if each.key.scenario == SINGLE_STREAM and each.state != INVALID and each.curve]
    if not single:
        return None
    said = []
    with _figure(f"{model}-distribution") as figure:
        axes = figure.subplots()
        for place, each in enumerate(single):
            quantiles, times = zip(*each.curve, strict=True)
            axes.plot(
                times, [100 * q for q in quantiles], DASHES[place % 5], color=COLOURS[place % 5], lw=1.5, label=each.key.device
            )
            middle, longest = (three_digits(value or 0) for value in (each.latency.p50_ms, each.latency.max_ms))
            said.append(f"{each.key.device}: median {middle} ms, longest {longest} ms")
        axes.set(xscale="log", xlabel="ms", ylabel="% of requests answered", ylim=(0, 101))
        _plain(axes)
        svg = _svg(figure)
    caption = "Requests answered within a time, one at a time. Logarithmic time; the curve ends where answers do."
    return Chart(f"{model}-distribution", caption, "; ".join(said), svg)


def _parts(model: str, summaries: Sequence[Summary]) -> Chart | None:
    shown = [each for each in summaries if each.state != INVALID and each.compute_us is not None and each.latency.mean_ms]
    if not shown:
        return None
    labels, said = [], []
    with _figure(f"{model}-parts", 2 * WIDTH, 0.9 + 0.28 * len(shown)) as figure:
        axes = figure.subplots()
        for row, each in enumerate(shown):
            parts = parts_ms(each)
            total, left = sum(parts.values()), 0.0
            for name, value in parts.items():
                axes.barh(row, 100 * value / total, left=left, color=PARTS[name], height=0.7, label=name if row == 0 else None)
                left += 100 * value / total
            labels.append(_label(each))
            axes.annotate(f" {three_digits(total)} ms", (100, row), va="center", color=INK, fontsize=8)
            said.append(
                f"{labels[-1]}: " + ", ".join(f"{name.lower()} {three_digits(value)} ms" for name, value in parts.items())
            )
        axes.set_yticks(range(len(shown)), labels)
        axes.invert_yaxis()
        axes.set(xlabel="% of a request's mean time", xlim=(0, 112))
        _plain(axes, legend=False)
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.3, 1), frameon=False, labelcolor=INK, fontsize=8)
        svg = _svg(figure)
    return Chart(
        f"{model}-parts",
        "Where a request's time goes, as shares of its mean; the mean is at the end of each bar.",
        "; ".join(said),
        svg,
        wide=True,
    )


def parts_ms(summary: Summary) -> dict[str, float]:
    """The parts of a request's mean time; what the server doesn't state is the client's and the network's."""
    stated = {
        "Queue": (summary.queue_us or 0.0) / 1e3,
        "Compute": (summary.compute_us or 0.0) / 1e3,
        "Decode": (summary.decode_us or 0.0) / 1e3,
    }
    rest = (summary.latency.mean_ms or 0.0) - sum(stated.values())
    return {**stated, "Client, network, encode": max(0.0, rest)}


def _cost(model: str, offers: Sequence[Offer]) -> Chart | None:
    priced = [offer for offer in offers if offer.price_per_hour is not None and offer.capacity_per_s > 0]
    if not priced:
        return None
    most = 5 * max(offer.usable_per_s for offer in priced)
    most = min(most, 40 * min(offer.usable_per_s for offer in priced))
    with _figure(f"{model}-cost") as figure:
        axes = figure.subplots()
        for place, offer in enumerate(priced):
            loads = [most * step / 400 for step in range(1, 401)]
            axes.step(
                loads,
                [cost_per_hour(load, offer) or 0.0 for load in loads],
                color=COLOURS[place % 5],
                ls=DASHES[place % 5],
                lw=1.5,
                label=f"{offer.device}, at most" if offer.at_least else offer.device,
            )
        axes.set(xlabel="requests/s", ylabel="price of an hour", xlim=(0, most), ylim=(0, None))
        _plain(axes)
        svg = _svg(figure)
    said = "; ".join(
        f"{offer.device}: {offer.price_per_hour:g} an hour for each {three_digits(offer.usable_per_s)} requests/s"
        for offer in priced
    )
    return Chart(
        f"{model}-cost", "Cost against load, in whole devices planned at 70 % of their capacity. Linear scales.", said, svg
    )


def _busy(model: str, summaries: Sequence[Summary]) -> Chart | None:
    shown = [each for each in summaries if each.state != INVALID and each.busy_share is not None]
    if not shown:
        return None
    watts = {id(each): _watts(each) for each in shown}
    with _figure(f"{model}-busy", WIDTH, 0.9 + 0.28 * len(shown)) as figure:
        axes = figure.subplots()
        devices = _names(shown)
        axes.barh(range(len(shown)), [100 * (each.busy_share or 0) for each in shown], height=0.7,
                  color=[COLOURS[devices.index(each.key.device) % 5] for each in shown])  # fmt: skip
        labels = [_label(each) for each in shown]
        axes.set_yticks(range(len(shown)), labels)
        axes.invert_yaxis()
        for row, each in enumerate(shown):
            axes.annotate(
                f" {each.busy_share:.0%}{watts[id(each)]}",
                (100 * (each.busy_share or 0), row),
                va="center",
                color=INK,
                fontsize=8,
            )
        axes.set(xlabel="% of the time that the device ran something", xlim=(0, 135))
        axes.set_xticks([0, 25, 50, 75, 100])
        _plain(axes, legend=False)
        svg = _svg(figure)
    said = "; ".join(f"{label}: {each.busy_share:.0%}{watts[id(each)]}" for label, each in zip(labels, shown, strict=True))
    power = "" if any(watts.values()) else " Power isn't measurable here."
    return Chart(f"{model}-busy", f"Utilisation, and mean power where it is known. Linear scale.{power}", said, svg)


def _watts(summary: Summary) -> str:
    known = [(name, joules) for name, joules in (("GPU", summary.gpu_j), ("CPU", summary.cpu_j)) if joules is not None]
    return "".join(f", {name} {joules / summary.duration_s:.0f} W" for name, joules in known if summary.duration_s)


def _crossover(full: Sequence[Summary]) -> str:
    """From which batch on the fastest device of large batches leads, if another one leads at the smallest."""
    best: dict[int, Summary] = {}
    for each in full:
        if each.key.batch not in best or (each.rows_per_s or 0) > (best[each.key.batch].rows_per_s or 0):
            best[each.key.batch] = each
    order = sorted(best)
    first, last = best[order[0]].key.device, best[order[-1]].key.device
    if first == last:
        return f" {last} has the higher measured rate at every batch."
    since = next(batch for batch in order if best[batch].key.device == last)
    return f" {first} leads at batch {order[0]}, {last} from batch {since} on."


def _reach(summaries: Sequence[Summary]) -> list[list[float]]:
    pairs = [
        ((each.rate or 0) - (each.rate_low or each.rate or 0), (each.rate_high or each.rate or 0) - (each.rate or 0))
        for each in summaries
    ]
    scaled = [
        (min(low, 0.9 * (each.rate or 0)) * each.key.batch, high * each.key.batch)
        for each, (low, high) in zip(summaries, pairs, strict=True)
    ]
    return [list(side) for side in zip(*scaled, strict=True)]


def _label(summary: Summary) -> str:
    key = summary.key
    load = f"at {key.rate_per_s:g}/s" if key.rate_per_s else f"batch {key.batch}"
    return f"{key.device}, {key.scenario} {load}"


def _devices(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.device for cell in cells))


def _names(summaries: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(each.key.device for each in summaries))


@contextmanager
def _figure(name: str, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Figure]:
    """A figure without axes, in inches."""
    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9, "text.color": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": "#94a3b8",
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield Figure(figsize=(width, height), layout="constrained")


def _plain(*every: Axes, legend: bool = True) -> None:
    for axes in every:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#94a3b8", alpha=0.25, lw=0.6)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log" and not axis.get_ticklabels(minor=False)[0].get_text().isdigit():
                low, high = axis.get_view_interval()
                axis.set_major_formatter(_marks(low, high))
                axis.set_minor_formatter(_marks(low, high) if high < 30 * low else NullFormatter())
    handles, labels = every[0].get_legend_handles_labels()
    if legend and handles and every[0].get_legend() is None:
        every[0].legend(handles, labels, frameon=False, labelcolor=INK, fontsize=8)


def _marks(low: float, high: float) -> FuncFormatter:
    """Labels of a logarithmic scale: 1, 2 and 5 of each decade, or all of them on a short scale."""
    shown = "123456789" if high < 4 * low else "125"
    return FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in shown else "")


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue()
