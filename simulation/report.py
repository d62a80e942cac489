"""The report: whether the target is met, what was assumed, and every figure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.results import table
from simulation import plots
from simulation.figures import Figures
from simulation.run_all import FIRST_IDLE, OURS, PLAIN, RIVALS
from simulation.scenarios import SCENARIOS, Scenario
from simulation.service import BUSY_W, CPU, CPU_SPREAD, GPU, GPUS, IDLE_W, PRICE_PER_HOUR, SIZES, Saved, assumed
from simulation.sweep import ENOUGH, LOADS, SWEPT, Point, carried, most

#: The target: never so far below the best of the others, and so far above first idle where both devices are worth using.
WORST, ABOVE_FIRST_IDLE = 0.98, 1.2
FIRST_IDLES = (FIRST_IDLE, PLAIN)


def write(
    directory: Path, about: Mapping[str, str], rows: Sequence[Figures], points: Sequence[Point], cpu: Mapping[str, Saved]
) -> str:
    """Writes routing.json, routing.svg, routing-loads.svg and routing.md; returns the last."""
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


def markdown(about: Mapping[str, str], rows: Sequence[Figures], points: Sequence[Point], cpu: Mapping[str, Saved]) -> str:
    """The page."""
    lines = ["# Routing, simulated", "", *(f"- {key}: {value}" for key, value in about.items()), ""]
    lines += [
        "**The GPU is an assumption, not a measurement**, and so are prices and watts. The CPU's times were measured. Nothing",
        "here says what a real GPU would do; it compares ways to choose between two devices that are like these. Queues and",
        "batches are the server's own code, the same for every policy but `first idle, plain queue`, which drops only what has",
        "expired.",
        "",
        f"Target: at least {WORST} of the best other policy in every scenario, and {ABOVE_FIRST_IDLE} of first idle in the",
        "mixed ones, where both devices are worth using. Goodput is defined in two ways elsewhere, and both are judged",
        "here: how many requests of a given load are in time, and how much load is carried with nearly all of them in",
        "time.",
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


def _verdict(rows: Sequence[Figures]) -> list[str]:
    lines = ["## Requests in time, at each scenario's load", ""]
    headings = ["scenario", "mixed", "Turnout, % in time", "best other", "Turnout / it"]
    headings += ["/ first idle", "(at most)", "/ first idle, plain", "(at most)", "target"]
    body = []
    for scenario in SCENARIOS:
        in_time = {row.policy: row.in_time for row in rows if row.scenario == scenario.name}
        ratios = [f"{ratio:.3f}" for rival in FIRST_IDLES for ratio in (in_time[OURS] / in_time[rival], 1 / in_time[rival])]
        best = max(RIVALS, key=in_time.__getitem__)
        share, ratio = f"{100 * in_time[OURS]:.1f}", f"{in_time[OURS] / in_time[best]:.3f}"
        body.append([scenario.name, _mark(scenario), share, best, ratio, *ratios, _judged(scenario, in_time, 1.0)])
    return [
        *lines,
        *table(headings, body),
        "",
        "`at most` is what a policy would reach that has every request in time: where it is below the target, first idle",
        "leaves no room for it. Where several are best the first is named. The size threshold was tuned on the very",
        "requests that it is compared on, one for each model. First idle is what instance groups of both kinds do",
        "elsewhere: `plain` with a queue that drops only what has expired, as is usual, the other with Turnout's, which",
        "drops what would be late and lets no batch make a request late.",
        "",
    ]


def _loads(points: Sequence[Point], cpu: Mapping[str, Saved]) -> list[str]:
    lines = [f"## Load carried with {100 * ENOUGH:g} % in time", ""]
    headings = ["scenario", "mixed", *SWEPT, "anybody", "Turnout / best other", "/ first idle"]
    headings += ["/ first idle, plain", "target"]
    body = []
    for scenario in SCENARIOS:
        group = {policy: [p for p in points if (p.scenario, p.policy) == (scenario.name, policy)] for policy in SWEPT}
        load = {policy: carried(of_one) for policy, of_one in group.items()}
        against = [max(load[policy] for policy in SWEPT if policy != OURS), *(load[rival] for rival in FIRST_IDLES)]
        ratios = [f"{load[OURS] / other:.2f}" for other in against]
        cells = [_load(load[policy], group[policy]) for policy in SWEPT]
        limit = most(scenario, cpu)
        cells.append("-" if limit == math.inf else f"{limit:.2f}")
        body.append([scenario.name, _mark(scenario), *cells, *ratios, _judged(scenario, load, limit)])
    return [
        *lines,
        *table(headings, body),
        "",
        "Load is what comes as a share of what both devices together could carry of each model alone. Each scenario is",
        f"played at loads from {LOADS[0]:g} to {LOADS[-1]:g}, all its streams in proportion, and then closer to where a",
        f"policy ceases to have {100 * ENOUGH:g} % of all requests in time; with fewer requests than above, the same for",
        "every policy, the size threshold tuned anew at each load. `anybody` is where that must cease if no device ever",
        "idles and every run is of the best size; it isn't known where requests differ. Where it is below the target there",
        "is no room. More than 1 is carried where models share the machine well: of one that is as fast on the CPU a load",
        "of 1 is far more than of the others. `<` and `>` are bounds, since the lowest load was too much or the highest was",
        "not; so are ratios with them.",
        "",
    ]


def _load(load: float, points: Sequence[Point]) -> str:
    if points[0].in_time < ENOUGH:
        return f"< {load:.2f}"
    return f"> {load:.2f}" if load == points[-1].load else f"{load:.2f}"


def _mark(scenario: Scenario) -> str:
    return "yes" if scenario.mixed else ""


def _judged(scenario: Scenario, goodput: Mapping[str, float], limit: float) -> str:
    """Whether the target is met, by either definition of goodput; `limit` is what anybody could reach."""
    missed = []
    if goodput[OURS] < WORST * max(reached for policy, reached in goodput.items() if policy in RIVALS):
        missed.append("best other")
    for rival in FIRST_IDLES if scenario.mixed else ():
        wanted = ABOVE_FIRST_IDLE * goodput[rival]
        if goodput[OURS] < wanted:
            missed.append(f"{rival} (no room)" if wanted > limit else rival)
    return f"missed: {'; '.join(missed)}" if missed else "met"


def _assumptions(cpu: Mapping[str, Saved]) -> list[str]:
    lines = ["## How long runs take", ""]
    lines += table(
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
        "An assumed GPU takes for each run "
        + ", ".join(f"{us:g} us ({model})" for model, us in next(iter(GPUS.values())).fixed_us.items())
        + ", and for each row what the CPU takes for one at its best batch, divided by "
        + ", ".join(f"{gpu.faster:g} ({name})" for name, gpu in GPUS.items())
        + f". A run's time is drawn around these: log-normal, {CPU_SPREAD:g} on the CPU, {GPUS['large'].spread:g} on the GPU.",
        "",
    ]
    lines += table(
        ["assumed", "an hour", "W idle", "W busy"],
        [[name, f"{PRICE_PER_HOUR[name]:.2f}", f"{IDLE_W[name]:g}", f"{BUSY_W[name]:g}"] for name in (CPU, GPU)],
    )
    return [
        *lines,
        "",
        "Cost is that of the time a device was busy, energy what it drew beyond idle, both for each request that was in time.",
        "`late` was answered after its deadline; `refused` at once; `expired` while it waited. p50 and p99 are of what was",
        "answered. `worst stream` is the goodput of those requests that fare worst. `inconsiderate` doesn't count what a",
        "request does to others; `admits all` refuses nothing for its deadline.",
        "",
    ]


def _scenario(scenario: Scenario, group: Sequence[Figures]) -> list[str]:
    lines = [f"## {scenario.name}", "", f"{scenario.about[0].upper()}{scenario.about[1:]}; {scenario.gpu} GPU.", ""]
    for stream in scenario.streams:
        sizes = "" if len(stream.sizes) == 1 and 1 in stream.sizes else f", rows {', '.join(map(str, stream.sizes))}"
        lines.append(f"- {stream.model}: load {stream.load:g}, {stream.deadline_ms:g} ms, {stream.arrivals}{sizes}")
    headings = ["policy", "in time %", "/s", "late %", "refused %", "expired %", "worst stream %", "p50 ms", "p99 ms"]
    headings += ["cost of a million", "J each", "on the CPU %", "CPU busy %", "GPU busy %"]
    return [*lines, "", *table(headings, [_row(row) for row in group]), ""]


def _row(row: Figures) -> list[str]:
    shares = (row.in_time, row.late, row.refused, row.expired, row.worst_stream, row.shares[CPU], row.busy[CPU], row.busy[GPU])
    in_time, late, refused, expired, worst, on_cpu, cpu_busy, gpu_busy = (f"{100 * share:.1f}" for share in shares)
    goodput, p50, p99 = f"{row.goodput_per_s:.1f}", f"{row.p50_ms:.3g}", f"{row.p99_ms:.3g}"
    cost, energy = f"{row.cost_per_million:.3g}", f"{row.energy_j:.2g}"
    return [row.policy, in_time, goodput, late, refused, expired, worst, p50, p99, cost, energy, on_cpu, cpu_busy, gpu_busy]
