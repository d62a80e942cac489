"""Writes devices.md, devices.json and a chart of each kill over time."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.devices.client import Answer
from benchmarks.devices.figures import Figures, median
from benchmarks.results import table

mpl.use("Agg")

#: Blue and orange differ for every kind of colour vision; failures are dark.
COLOURS = ("#3b82f6", "#f97316", "#1f2328")
BIN_S = 0.5
HEADINGS = [
    "device",
    "sent/s",
    "in time/s",
    "p50 ms",
    "p99 ms",
    "p99 of all sent, ms",
    "on {}",
    "refused",
    "expired",
    "failed",
    "prediction off by",
    "cores: server",
    "client",
    "others",
]


@dataclass(frozen=True)
class Kill:
    """A load during which a device's process was killed.

    Attributes:
        rate, named_rate: requests a second for `auto`, and for the device that was killed.
        at_s, seconds: when that was, and how long the load went on altogether.
    """

    rate: float
    named_rate: float
    at_s: float
    seconds: float
    answers: Sequence[Answer]


@dataclass
class Report:
    """Everything that was measured.

    Attributes:
        capacities: answers a second of the first device alone, the second alone, and both at once, in each round.
        target_runs: by when an answer is wanted, in runs of the better device.
        rounds: by the device asked for and the requests a second.
    """

    about: dict[str, str]
    first: str
    second: str
    capacities: list[list[float]]
    model: str
    target_runs: float
    rounds: dict[tuple[str, float], list[Figures]] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)

    @property
    def alone(self) -> dict[str, float]:
        """What each device carries by itself, in answers a second."""
        first, second, _ = map(statistics.median, zip(*self.capacities, strict=True))
        return {self.first: first, self.second: second}

    @property
    def together(self) -> float:
        """What both carry at once."""
        return statistics.median(both for _, _, both in self.capacities)

    @property
    def target_s(self) -> float:
        return self.target_runs / max(self.alone.values())

    def gains(self) -> list[float]:
        """In each round, the goodput of `auto` as a multiple of the better device's under the same load."""
        rate = next(rate for device, rate in self.rounds if device == self.first)
        columns = [self.rounds[device, rate] for device in (self.first, self.second, "auto")]
        return [auto.goodput / max(a.goodput, b.goodput) for a, b, auto in zip(*columns, strict=True)]


def write(directory: Path, report: Report) -> None:
    """Writes the report into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "devices.json").write_text(json.dumps(_data(report), indent=1) + "\n")
    (directory / "devices.md").write_text(_markdown(report))
    _chart(report).savefig(directory / "devices.png", dpi=90)


def _data(report: Report) -> dict[str, object]:
    return {
        "about": report.about,
        "capacities": report.capacities,
        "target_s": report.target_s,
        "gains": report.gains(),
        "loads": [
            {"device": device, "rate": rate, "rounds": [_finite(asdict(figures)) for figures in rounds]}
            for (device, rate), rounds in report.rounds.items()
        ],
        "kills": [
            {"rate": kill.rate, "named_rate": kill.named_rate, "at_s": kill.at_s, "answers": [list(a) for a in kill.answers]}
            for kill in report.kills
        ],
    }


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity."""
    return {name: None if value == inf else round(value, 4) for name, value in figures.items()}


def _markdown(report: Report) -> str:
    gains = report.gains()
    lines = ["# Two devices, one load", "", *(f"- {key}: {value}" for key, value in report.about.items()), ""]
    lines += [
        f"One server, the model `{report.model}`, and two CPU devices on a core each: `{report.first}` in the server's "
        f"process, `{report.second}` in a process of its own. An answer counts if it comes within "
        f"{report.target_s * 1e3:.0f} ms of when its request was due, {report.target_runs:g} times what a run takes; that is "
        "also each request's gRPC deadline. "
        "Requests come at random moments (Poisson), however late the answers are. The client runs on the same machine.",
        "",
        "## What the devices can carry",
        "",
        *table(["device", "answers/s"], [[name, f"{rate:.1f}"] for name, rate in report.alone.items()]),
        f"| both at once | {report.together:.1f} |",
        "",
        f"Both at once carry {report.together / max(report.alone.values()):.2f} times what the better one does alone: more "
        "than that no routing can gain.",
        "",
        "## Goodput",
        "",
        f"`auto` answers in time **{statistics.median(gains):.2f} times** what the better device does under the same load "
        f"(median of {len(gains)} rounds, {min(gains):.2f} to {max(gains):.2f}).",
        "",
        *table([heading.format(report.second) for heading in HEADINGS], [_row(*load) for load in report.rounds.items()]),
        "",
        "Medians of the rounds; `in time/s` leaves out the first moments, in which queues fill, and what comes after the load. "
        "p50 and p99 are of the answered; in `p99 of all sent` a request that failed took for ever. `others` is what the "
        "machine's other processes took of its cores meanwhile; a measurement that they disturbed was made again, and of "
        "several the least disturbed counts.",
    ]
    for kill in report.kills:
        lines += ["", *_kill_lines(report, kill)]
    lines += ["", "![Answers a second by device, and failures, around each kill](devices.png)", ""]
    return "\n".join(lines)


def _row(load: tuple[str, float], rounds: Sequence[Figures]) -> list[str]:
    f = median(rounds)
    p99 = "never" if f.sent_p99_ms == inf else f"{f.sent_p99_ms:.0f}"
    shares = [f"{share * 100:.1f} %" for share in (f.share_b, f.refused, f.expired, f.failed, f.error)]
    cores = [f"{cores:.2f}" for cores in (f.server_cores, f.client_cores, f.other_cores)]
    return [load[0], f"{f.load:.1f}", f"{f.goodput:.1f}", f"{f.p50_ms:.0f}", f"{f.p99_ms:.0f}", p99, *shares, *cores]


def _kill_lines(report: Report, kill: Kill) -> list[str]:
    """What a kill cost whom."""
    fits = kill.rate < min(report.alone.values())
    rows = []
    for asked in dict.fromkeys(answer.asked for answer in kill.answers):
        for when, chosen in _phases(report, kill, asked).items():
            statuses = Counter(answer.status for answer in chosen)
            failures = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()) if status != "OK")
            retried = sum(answer.reason == "retried" for answer in chosen)
            rows.append([asked, when, str(len(chosen)), str(statuses["OK"]), str(retried), failures or "none"])
    return [
        f"## `{report.second}` is killed at {kill.rate:.1f} requests/s"
        + (", which the other device carries alone" if fits else ", more than the other device carries alone"),
        "",
        f"SIGKILL after {kill.at_s:.1f} s; {kill.named_rate:g} requests/s name `{report.second}`. It answered again "
        f"{_back_s(report, kill) - kill.at_s:.1f} s later.",
        "",
        *table(["asked for", "due", "sent", "answered", "of them retried elsewhere", "failures"], rows),
    ]


def _phases(report: Report, kill: Kill, asked: str) -> dict[str, list[Answer]]:
    """The answers to those who asked so, by when they were in flight: over before the kill, hit by it, and so on."""
    phases: dict[str, list[Answer]] = {"over before": [], "in flight at the kill": [], "while it restarts": [], "after": []}
    back_s = _back_s(report, kill)
    for answer in kill.answers:
        if answer.asked != asked:
            continue
        if answer.due_s + answer.latency_s < kill.at_s:
            phases["over before"].append(answer)
        elif answer.due_s < kill.at_s:
            phases["in flight at the kill"].append(answer)
        else:
            phases["while it restarts" if answer.due_s < back_s else "after"].append(answer)
    return phases


def _back_s(report: Report, kill: Kill) -> float:
    """When the first request was sent that the killed device answered again; the end if none was."""
    back = [answer.due_s for answer in kill.answers if answer.device == report.second and answer.due_s > kill.at_s]
    return min(back, default=kill.seconds)


def _chart(report: Report) -> Figure:
    figure = Figure(figsize=(8, 2.6 * len(report.kills)), layout="constrained")
    for axes, kill in zip(figure.subplots(len(report.kills), squeeze=False)[:, 0], report.kills, strict=True):
        _draw(axes, report, kill)
    return figure


def _draw(axes: Axes, report: Report, kill: Kill) -> None:
    """What came to an end in each half second."""
    ends = {name: [a.due_s + a.latency_s for a in kill.answers if a.device == name] for name in (report.first, report.second)}
    ends["failures"] = [a.due_s + a.latency_s for a in kill.answers if a.status != "OK"]
    starts = [number * BIN_S for number in range(round(kill.seconds / BIN_S))]
    below = [0.0] * len(starts)
    for (name, ends_s), colour in zip(ends.items(), COLOURS, strict=True):
        heights = [sum(start <= end_s < start + BIN_S for end_s in ends_s) / BIN_S for start in starts]
        axes.bar(starts, heights, BIN_S, below, align="edge", color=colour, label=name)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.axvline(kill.at_s, color=COLOURS[2], linestyle="--", label="killed")
    axes.set(xlim=(0, kill.seconds), ylabel="answers/s", xlabel="seconds")
    axes.set_title(f"auto at {kill.rate:.1f}/s, {report.second} at {kill.named_rate:g}/s", loc="left", fontsize=10)
    axes.legend(loc="lower left", ncols=4, fontsize=8)
