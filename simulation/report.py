"""The report: whether the target is met, the assumptions, and all results."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from turnout_loadtests.formatting import markdown_table

from simulation import plots
from simulation.results import Result
from simulation.run_all import BASELINES, FIRST_IDLE, OURS, PLAIN
from simulation.scenarios import SCENARIOS, Scenario
from simulation.service import BUSY_W, CPU, CPU_SPREAD, GPU, GPUS, IDLE_W, PRICE_PER_HOUR, SIZES, Saved, assumed
from simulation.sweep import CARRIED_SHARE, LOADS, SWEPT, Point, carried_load, upper_bound

#: The target for Turnout's goodput: at least these multiples of the best other policy's in every scenario, and of first idle's
#: in mixed scenarios.
OF_BEST_OTHER, OF_FIRST_IDLE = 0.98, 1.2
FIRST_IDLES = (FIRST_IDLE, PLAIN)


def write(
    directory: Path, about: Mapping[str, str], rows: Sequence[Result], points: Sequence[Point], cpu: Mapping[str, Saved]
) -> str:
    """Writes routing.json, routing.svg, routing-loads.svg and routing.md; returns the text of routing.md."""
    directory.mkdir(parents=True, exist_ok=True)
    assumptions = {"gpus": {name: asdict(gpu) for name, gpu in GPUS.items()}, "cpu_spread": CPU_SPREAD}
    rates = {"price_per_hour": PRICE_PER_HOUR, "idle_w": IDLE_W, "busy_w": BUSY_W}
    scenarios = [asdict(scenario) for scenario in SCENARIOS]
    data = {"about": about, "assumptions": assumptions | rates, "scenarios": scenarios}
    data |= {"rows": [asdict(row) for row in rows], "loads": [asdict(point) for point in points]}
    (directory / "routing.json").write_text(json.dumps(data, indent=1) + "\n")
    (directory / "routing.svg").write_text(plots.goodput(rows))
    (directory / "routing-loads.svg").write_text(plots.loads([s for s in SCENARIOS if s.mixed], points))
    page = markdown(about, rows, points, cpu)
    (directory / "routing.md").write_text(page)
    return page


def markdown(about: Mapping[str, str], rows: Sequence[Result], points: Sequence[Point], cpu: Mapping[str, Saved]) -> str:
    """The text of routing.md."""
    lines = ["# Routing, simulated", "", *(f"- {key}: {value}" for key, value in about.items()), ""]
    lines += [
        "**The GPU is an assumption, not a measurement**, and so are prices and watts. The CPU's service times were measured.",
        "This page doesn't predict what a real GPU would do; it compares policies that choose between two devices like these.",
        "Queues and batches are the server's own code, the same for every policy except `first idle, plain queue`, which drops",
        "only expired requests.",
        "",
        f"Target: at least {OF_BEST_OTHER} of the goodput of the best other policy in every scenario, and {OF_FIRST_IDLE} of",
        "first idle's in the mixed ones, where both devices are worth using. The literature defines goodput in two ways, and",
        "the target is for both: the share of requests in time at a given load, and the load that is carried with nearly all",
        "requests in time.",
        "",
        *_verdict(rows),
        "![Goodput by scenario and policy](routing.svg)",
        "",
        *_loads(points, cpu),
        "![Goodput by load and policy in the mixed scenarios](routing-loads.svg)",
        "",
        *_assumptions(cpu),
    ]
    for scenario in SCENARIOS:
        lines += _scenario(scenario, [row for row in rows if row.scenario == scenario.name])
    return "\n".join(lines)


def _verdict(rows: Sequence[Result]) -> list[str]:
    lines = ["## Requests in time, at each scenario's load", ""]
    headings = ["scenario", "mixed", "Turnout, % in time", "best other", "Turnout / it"]
    headings += ["/ first idle", "(at most)", "/ first idle, plain", "(at most)", "target"]
    body = []
    for scenario in SCENARIOS:
        in_time = {row.policy: row.in_time for row in rows if row.scenario == scenario.name}
        ratios = [f"{ratio:.3f}" for other in FIRST_IDLES for ratio in (in_time[OURS] / in_time[other], 1 / in_time[other])]
        best = max(BASELINES, key=in_time.__getitem__)
        share, ratio = f"{100 * in_time[OURS]:.1f}", f"{in_time[OURS] / in_time[best]:.3f}"
        body.append([scenario.name, _mark(scenario), share, best, ratio, *ratios, _judged(scenario, in_time, 1.0)])
    return [
        *lines,
        *markdown_table(headings, body),
        "",
        "`at most` is the ratio of a policy with every request in time. Where it is below the target, first idle leaves no",
        "room for an improvement that large. If several policies are best, the first is named. The size threshold, one for",
        "each model, was tuned on the same requests that the policies are compared on. First idle is what other servers do",
        "with instance groups on both devices. `plain` has a queue that drops only expired requests, which is usual; the other",
        "has Turnout's queue, which also drops requests that would be late and forms no batch that would make a request late.",
        "",
    ]


def _loads(points: Sequence[Point], cpu: Mapping[str, Saved]) -> list[str]:
    lines = [f"## Load carried with {100 * CARRIED_SHARE:g} % in time", ""]
    headings = ["scenario", "mixed", *SWEPT, "upper bound", "Turnout / best other", "/ first idle"]
    headings += ["/ first idle, plain", "target"]
    body = []
    for scenario in SCENARIOS:
        group = {policy: [p for p in points if (p.scenario, p.policy) == (scenario.name, policy)] for policy in SWEPT}
        load = {policy: carried_load(of_one) for policy, of_one in group.items()}
        others = [max(load[policy] for policy in SWEPT if policy != OURS), *(load[other] for other in FIRST_IDLES)]
        ratios = [f"{load[OURS] / other:.2f}" for other in others]
        cells = [_load(load[policy], group[policy]) for policy in SWEPT]
        limit = upper_bound(scenario, cpu)
        cells.append("-" if limit == math.inf else f"{limit:.2f}")
        body.append([scenario.name, _mark(scenario), *cells, *ratios, _judged(scenario, load, limit)])
    return [
        *lines,
        *markdown_table(headings, body),
        "",
        "A load is a share of the capacity of both devices together, for each model alone. Each scenario is simulated at loads",
        f"from {LOADS[0]:g} to {LOADS[-1]:g}, with all streams in proportion, and then closer to where a policy no longer has",
        f"{100 * CARRIED_SHARE:g} % of all requests in time. It has fewer requests than above, the same for every policy; the",
        "size threshold is tuned anew at each load. `upper bound` is the load that would be carried if no device were ever",
        "idle and every run had the best size; it isn't known if requests differ. Where it is below the target, there is no",
        "room. A policy can carry more than 1 if models share the machine well: a model that is as fast on the CPU has a much",
        "larger capacity than the others. `<` and `>` mark bounds: the lowest load was too high, or the highest too low.",
        "Ratios with them are bounds too.",
        "",
    ]


def _load(load: float, points: Sequence[Point]) -> str:
    if points[0].in_time < CARRIED_SHARE:
        return f"< {load:.2f}"
    return f"> {load:.2f}" if load == points[-1].load else f"{load:.2f}"


def _mark(scenario: Scenario) -> str:
    return "yes" if scenario.mixed else ""


def _judged(scenario: Scenario, goodput: Mapping[str, float], limit: float) -> str:
    """Whether the target is met, by either definition of goodput; `limit` is the highest goodput that is possible."""
    missed = []
    if goodput[OURS] < OF_BEST_OTHER * max(reached for policy, reached in goodput.items() if policy in BASELINES):
        missed.append("best other")
    for other in FIRST_IDLES if scenario.mixed else ():
        wanted = OF_FIRST_IDLE * goodput[other]
        if goodput[OURS] < wanted:
            missed.append(f"{other} (no room)" if wanted > limit else other)
    return f"missed: {'; '.join(missed)}" if missed else "met"


def _assumptions(cpu: Mapping[str, Saved]) -> list[str]:
    lines = ["## Service times", ""]
    lines += markdown_table(
        ["ms by rows", *map(str, SIZES)],
        [
            [f"{model}, {device}", *(f"{saved[str(rows)]['service_us'] / 1e3:.3g}" for rows in SIZES)]
            for device, profiles in [
                ("CPU (measured)", cpu),
                *((f"{name} GPU (ASSUMED)", assumed(gpu, cpu)) for name, gpu in GPUS.items()),
            ]
            for model, saved in profiles.items()
        ],
    )
    lines += [
        "",
        "A run on an assumed GPU takes "
        + ", ".join(f"{us:g} us ({model})" for model, us in next(iter(GPUS.values())).fixed_us.items())
        + ", plus for each row the CPU's time per row at its best batch size, divided by "
        + ", ".join(f"{gpu.faster:g} ({name})" for name, gpu in GPUS.items())
        + ". The time of each run is random: log-normal around these, with a standard deviation of the logarithm of "
        + f"{CPU_SPREAD:g} on the CPU and {GPUS['large'].spread:g} on the GPU.",
        "",
    ]
    lines += markdown_table(
        ["assumed", "an hour", "W idle", "W busy"],
        [[name, f"{PRICE_PER_HOUR[name]:.2f}", f"{IDLE_W[name]:g}", f"{BUSY_W[name]:g}"] for name in (CPU, GPU)],
    )
    return [
        *lines,
        "",
        "Cost is the price of the devices' busy time, energy what they draw beyond idle; both are per request in time. `late`",
        "requests were answered after their deadline; `refused` ones were refused on arrival, `expired` ones dropped from the",
        "queue. p50 and p99 are of answered requests. `worst stream` is the lowest share in time of a stream. `ignores others`",
        "doesn't count the deadline misses that a request causes for others; `admits all` refuses no request for its deadline.",
        "",
    ]


def _scenario(scenario: Scenario, group: Sequence[Result]) -> list[str]:
    lines = [f"## {scenario.name}", "", f"{scenario.about[0].upper()}{scenario.about[1:]}; {scenario.gpu} GPU.", ""]
    for stream in scenario.streams:
        sizes = "" if len(stream.sizes) == 1 and 1 in stream.sizes else f", rows {', '.join(map(str, stream.sizes))}"
        lines.append(f"- {stream.model}: load {stream.load:g}, {stream.deadline_ms:g} ms, {stream.arrivals}{sizes}")
    headings = ["policy", "in time %", "/s", "late %", "refused %", "expired %", "worst stream %", "p50 ms", "p99 ms"]
    headings += ["cost of a million", "J each", "on the CPU %", "CPU busy %", "GPU busy %"]
    return [*lines, "", *markdown_table(headings, [_row(row) for row in group]), ""]


def _row(row: Result) -> list[str]:
    shares = (row.in_time, row.late, row.refused, row.expired, row.worst_stream, row.shares[CPU], row.busy[CPU], row.busy[GPU])
    in_time, late, refused, expired, worst, on_cpu, cpu_busy, gpu_busy = (f"{100 * share:.1f}" for share in shares)
    goodput, p50, p99 = f"{row.goodput_per_s:.1f}", f"{row.p50_ms:.3g}", f"{row.p99_ms:.3g}"
    cost, energy = f"{row.cost_per_million:.3g}", f"{row.energy_j:.2g}"
    return [row.policy, in_time, goodput, late, refused, expired, worst, p50, p99, cost, energy, on_cpu, cpu_busy, gpu_busy]
