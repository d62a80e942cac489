"""Writes devices.md, devices.json, and devices.png with a chart of each kill over time."""

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
from turnout_loadtests.formatting import markdown_table
from turnout_loadtests.open_loop import Outcome

from benchmarks.devices.summary import Summary, median

mpl.use("Agg")

#: Blue and orange differ for every kind of colour vision; failures are dark.
COLOURS = ("#3b82f6", "#f97316", "#1f2328")
#: The width of the chart's bars in seconds.
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
    """A load during which a device process was killed.

    Attributes:
        rate, named_rate: requests per second for `auto`, and for the device that was killed.
        at_s, seconds: when it was killed, and the length of the load.
    """

    rate: float
    named_rate: float
    at_s: float
    seconds: float
    outcomes: Sequence[Outcome]


@dataclass
class Report:
    """Everything that was measured.

    Attributes:
        about: the machine, the command and the date.
        first, second: the names of the devices.
        capacities: answers per second of the first device alone, the second alone, and both at once, in each round.
        target_runs: the latency target, as a multiple of the better device's service time.
        rounds: by the device that requests name and the requests per second.
    """

    about: dict[str, str]
    first: str
    second: str
    capacities: list[list[float]]
    model: str
    target_runs: float
    rounds: dict[tuple[str, float], list[Summary]] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)

    @property
    def alone(self) -> dict[str, float]:
        """The capacity of each device alone, in answers per second."""
        first, second, _ = map(statistics.median, zip(*self.capacities, strict=True))
        return {self.first: first, self.second: second}

    @property
    def together(self) -> float:
        """The capacity of both devices at once, in answers per second."""
        return statistics.median(both for _, _, both in self.capacities)

    @property
    def target_s(self) -> float:
        return self.target_runs / max(self.alone.values())

    def gains(self) -> list[float]:
        """The goodput of `auto` in each round, as a multiple of the better device's under the same load."""
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
            {"device": device, "rate": rate, "rounds": [_finite(asdict(each)) for each in rounds]}
            for (device, rate), rounds in report.rounds.items()
        ],
        "kills": [
            {
                "rate": kill.rate,
                "named_rate": kill.named_rate,
                "at_s": kill.at_s,
                "answers": [list(each) for each in kill.outcomes],
            }
            for kill in report.kills
        ],
    }


def _finite(summary: dict[str, float]) -> dict[str, float | None]:
    """The same values, None for infinite ones, which JSON doesn't have."""
    return {name: None if value == inf else round(value, 4) for name, value in summary.items()}


def _markdown(report: Report) -> str:
    gains = report.gains()
    lines = ["# Two devices, one load", "", *(f"- {key}: {value}" for key, value in report.about.items()), ""]
    lines += [
        f"One server, the model `{report.model}`, and two CPU devices on a core each: `{report.first}` in the server's "
        f"process, `{report.second}` in a device process. An answer is in time if it comes within "
        f"{report.target_s * 1e3:.0f} ms of when its request was due, {report.target_runs:g} times the service time of a run; "
        "this is also the gRPC deadline of each request. "
        "Requests arrive as a Poisson process, however late the answers are. The client runs on the same machine.",
        "",
        "## Capacity of the devices",
        "",
        *markdown_table(["device", "answers/s"], [[name, f"{rate:.1f}"] for name, rate in report.alone.items()]),
        f"| both at once | {report.together:.1f} |",
        "",
        f"Both at once have {report.together / max(report.alone.values()):.2f} times the capacity of the better one alone. "
        "Routing can gain no more than that.",
        "",
        "## Goodput",
        "",
        f"The goodput of `auto` is **{statistics.median(gains):.2f} times** that of the better device under the same load "
        f"(median of {len(gains)} rounds, {min(gains):.2f} to {max(gains):.2f}).",
        "",
        *markdown_table(
            [heading.format(report.second) for heading in HEADINGS], [_row(*load) for load in report.rounds.items()]
        ),
        "",
        "Medians of the rounds. `in time/s` leaves out the first moments, in which queues fill, and answers after the load. "
        "p50 and p99 are of answered requests; in `p99 of all sent` the latency of a failed request is infinite. `others` is "
        "the number of cores that other processes used; a measurement that they disturbed was repeated, and the least "
        "disturbed one is shown.",
    ]
    for kill in report.kills:
        lines += ["", *_kill_lines(report, kill)]
    lines += ["", "![Answers per second by device, and failures, around each kill](devices.png)", ""]
    return "\n".join(lines)


def _row(load: tuple[str, float], rounds: Sequence[Summary]) -> list[str]:
    s = median(rounds)
    p99 = "never" if s.sent_p99_ms == inf else f"{s.sent_p99_ms:.0f}"
    shares = [f"{share * 100:.1f} %" for share in (s.share_b, s.refused, s.expired, s.failed, s.error)]
    cores = [f"{cores:.2f}" for cores in (s.server_cores, s.client_cores, s.other_cores)]
    return [load[0], f"{s.load:.1f}", f"{s.goodput:.1f}", f"{s.p50_ms:.0f}", f"{s.p99_ms:.0f}", p99, *shares, *cores]


def _kill_lines(report: Report, kill: Kill) -> list[str]:
    """The section on a kill: how requests ended before, at and after it."""
    fits = kill.rate < min(report.alone.values())
    rows = []
    for source in dict.fromkeys(outcome.source for outcome in kill.outcomes):
        for phase, chosen in _phases(report, kill, source).items():
            codes = Counter(outcome.code for outcome in chosen)
            failures = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()) if code != "OK")
            retried = sum(outcome.route_reason == "retried" for outcome in chosen)
            rows.append([source, phase, str(len(chosen)), str(codes["OK"]), str(retried), failures or "none"])
    return [
        f"## `{report.second}` is killed at {kill.rate:.1f} requests/s"
        + (", which the other device carries alone" if fits else ", more than the other device carries alone"),
        "",
        f"SIGKILL after {kill.at_s:.1f} s; {kill.named_rate:g} requests/s name `{report.second}`. It answered again "
        f"{_restarted_s(report, kill) - kill.at_s:.1f} s later.",
        "",
        *markdown_table(["asked for", "due", "sent", "answered", "of them retried elsewhere", "failures"], rows),
    ]


def _phases(report: Report, kill: Kill, source: str) -> dict[str, list[Outcome]]:
    """The outcomes of a source by phase: ended before the kill, in flight at it, and so on."""
    phases: dict[str, list[Outcome]] = {"over before": [], "in flight at the kill": [], "while it restarts": [], "after": []}
    restarted_s = _restarted_s(report, kill)
    for outcome in kill.outcomes:
        if outcome.source != source:
            continue
        if outcome.due_s + outcome.latency_s < kill.at_s:
            phases["over before"].append(outcome)
        elif outcome.due_s < kill.at_s:
            phases["in flight at the kill"].append(outcome)
        else:
            phases["while it restarts" if outcome.due_s < restarted_s else "after"].append(outcome)
    return phases


def _restarted_s(report: Report, kill: Kill) -> float:
    """When the first request was due that the killed device answered after the kill; the end of the load if there is none."""
    answered = [each.due_s for each in kill.outcomes if each.device == report.second and each.due_s > kill.at_s]
    return min(answered, default=kill.seconds)


def _chart(report: Report) -> Figure:
    figure = Figure(figsize=(8, 2.6 * len(report.kills)), layout="constrained")
    for axes, kill in zip(figure.subplots(len(report.kills), squeeze=False)[:, 0], report.kills, strict=True):
        _draw(axes, report, kill)
    return figure


def _draw(axes: Axes, report: Report, kill: Kill) -> None:
    """Draws the number of requests that ended in each bin, by device, and the failures."""
    ends = {name: [o.due_s + o.latency_s for o in kill.outcomes if o.device == name] for name in (report.first, report.second)}
    ends["failures"] = [o.due_s + o.latency_s for o in kill.outcomes if o.code != "OK"]
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
