"""The tables of a report as texts: one function for each, from results to headings and rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from turnout_loadtests.formatting import or_dash, three_digits, with_bound
from turnout_loadtests.judging.answer import offer_of
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.comparisons import UNDECIDED, by_throughput
from turnout_loadtests.judging.economics import (
    MILLION,
    Offer,
    cheapest,
    cost_per_hour,
    cost_per_million,
    cost_per_million_at_capacity,
    data_set,
    least_cost_per_hour,
    needed,
)  # fmt: skip
from turnout_loadtests.judging.ladder import shown_targets
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.judging.verdict import Evidence, at_least
from turnout_loadtests.measuring.devices import CPU, GPU
from turnout_loadtests.reporting.conclusions import carries, evidence_of
from turnout_loadtests.reporting.results import Results

#: The table that is shown without rows, too, because its note says why.
POWER = "Power"
DASH = "\N{EN DASH}"
AT_MOST = "≤: at most, because its capacity wasn't reached."
#: Loads of a table are of the series 1, 2, 5, 10, ... within what the devices carry.
MAX_LOADS = 7


@dataclass(frozen=True)
class Table:
    """A table; the first column has the names of its rows. Without rows it isn't shown.

    Attributes:
        note: how to read it, or why there is nothing in it.
        prose: the places of columns that hold words, which are aligned to the left.
        remarks: the last column holds sentences, which the page shows below their rows because a column would be too narrow.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    prose: Sequence[int] = (0,)
    remarks: bool = False


def answers(results: Results) -> list[Table]:
    """The tables that answer the question, in the order in which a reader needs them."""
    tables = [processing(results), per_model(results), utilisation(results), power(results), agreement(results)]
    return [table for table in tables if table.rows or table.title == POWER]


def grid(results: Results, evidence: Evidence) -> Table:
    """Which device, and how many of it, for each load and target."""
    by_target = {target: offers_of(results, evidence, target) for target in shown_targets(results.target_ms)}
    targets = [target for target, offers in by_target.items() if offers]
    loads = loads_of(results, [offer for offers in by_target.values() for offer in offers])
    if not targets:
        return Table("Which device for which load", [], [], "What devices carry within a latency target is not known.")
    rows = []
    for load in loads:
        found = [cheapest(load, by_target[target]) for target in targets]
        rows.append(
            [
                f"{load:g}/s",
                *(
                    _count(*each) + _doubt(load, each[0], by_target[target]) if each else DASH
                    for target, each in zip(targets, found, strict=True)
                ),
            ]
        )
    priced = all(offer.price_per_hour is not None for offers in by_target.values() for offer in offers)
    best = "cheapest at the prices below" if priced else "one of which the fewest are needed, as prices aren't known"
    note = f"The device that is the {best}."
    unknown = [f"{target:g} ms" for target, offers in by_target.items() if not offers]
    if unknown:
        note += f" Nothing is known within {', '.join(unknown)}."
    head = ["Requests/s", *(f"p99 ≤ {target:g} ms" for target in targets)]
    return Table(
        "Which device for which load",
        head,
        rows,
        f"{note} A dash: none keeps the target. {AT_MOST} ?: another one may be cheaper, for this reason.",
    )


def cost(results: Results, evidence: Evidence, target_ms: float) -> Table:
    """What each load costs on each device."""
    offers = offers_of(results, evidence, target_ms)
    loads, planned = loads_of(results, offers), "each loaded to 70 % of its capacity"
    if all(offer.price_per_hour is None for offer in offers):
        rows = [[f"{load:g}/s", *(_number(load, offer) for offer in offers)] for load in loads]
        note = f"How many are needed, {planned}. --price, such as --price cpu=0.34/h, makes costs of it. {AT_MOST}"
        return Table(f"How many at p99 ≤ {target_ms:g} ms", ["Requests/s", *(offer.device for offer in offers)], rows, note)
    rows = [[f"{load:g}/s", *(_cost(load, offer) for offer in offers)] for load in loads]
    full = [(_bound(offer), cost_per_million_at_capacity(offer)) for offer in offers]
    if rows:
        rows.append(
            [
                "always at capacity",
                *(f"{at_most}{_money(each)} a million" if each is not None else DASH for at_most, each in full),
            ]
        )
    return Table(
        f"Cost at p99 ≤ {target_ms:g} ms",
        ["Requests/s", *(_priced(offer) for offer in offers)],
        rows,
        f"An hour on as many devices as are needed, {planned}, and a million requests on them. {AT_MOST}",
    )


def data_sets(results: Results, evidence: Evidence, rows: float = MILLION) -> Table:
    """What a data set takes that is run through as fast as possible."""
    lines = []
    for device in evidence.measured:
        fullest, facts = evidence.fullest(device), evidence.facts[device]
        if fullest is None or fullest.state == INVALID or not fullest.rows_per_s:
            continue
        hours, money = data_set(rows, fullest.rows_per_s, facts.price_per_hour)
        speed = f"{_rate(fullest)} rows/s, batch {fullest.key.batch}"
        bound = "≤ " if at_least(fullest) else ""
        lines.append([device, speed, bound + _hours(hours), DASH if money is None else bound + _money(money)])
    head = ["Device", "Throughput", "Time", "Cost"]
    return Table(
        "A data set of a million rows",
        head,
        lines,
        "With so many requests in flight, of so many rows each, that the device is never idle.",
    )


def processing(results: Results) -> Table:
    """How long a request takes, and how many rows each device answers."""
    rows = []
    for evidence in _evidences(results):
        base = _baseline(evidence)
        for device in evidence.measured:
            single, fullest = evidence.single(device), evidence.fullest(device)
            latency = single.latency if single and single.state != INVALID else None
            rows.append(
                [
                    evidence.model,
                    device,
                    DASH if latency is None else with_bound(latency.p50_ms, latency.p50_upper_ms),
                    DASH if latency is None else with_bound(latency.p99_ms, latency.p99_upper_ms),
                    _rate(fullest),
                    _speed_up(evidence, device, base),
                ]
            )
    head = ["Model", "Device", "p50 ms, one request", "p99 ms", "Rows/s, filled", "Speed-up (99 % interval)"]
    note = (
        "In brackets, what the true percentile doesn't exceed. A dash: too few answers, or none valid. Speed-up of rows/s over "
        "the best CPU."
    )
    return Table("Processing time", head, rows, note, (0, 1))


def per_model(results: Results) -> Table:
    """Milliseconds for a row on each device."""
    devices = list(dict.fromkeys(device for evidence in _evidences(results) for device in evidence.measured))
    rows = []
    for evidence in _evidences(results):
        row = [evidence.model]
        for device in devices:
            single, fullest = evidence.single(device), evidence.fullest(device)
            p50_ms = single.latency.p50_ms if single and single.state != INVALID else None
            row.append(or_dash(None if single is None or p50_ms is None else p50_ms / single.key.batch))
            rate = fullest.rows_per_s if fullest and fullest.state != INVALID else None
            row.append(or_dash(1e3 / rate if rate else None))
        rows.append(row)
    head = ["Model", *(name for device in devices for name in (f"{device}: alone", f"{device}: filled"))]
    return Table(
        "Time for a row, by model",
        head,
        rows if devices and len(rows) > 1 else [],
        "Milliseconds: its part of one request alone, of the smallest batch; and when the device is filled.",
    )


def utilisation(results: Results) -> Table:
    """How busy each device was."""
    rows = []
    for evidence in _evidences(results):
        for device in evidence.measured:
            single, fullest = evidence.single(device), evidence.fullest(device)
            together = fullest.rows_run_together if fullest else None
            rows.append([evidence.model, device, _share(single), _share(fullest), or_dash(together)])
    head = ["Model", "Device", "Busy, one request at a time", "Busy, filled", "Rows in a run"]
    return Table("Utilisation", head, rows, "The share of the time in which the device ran something.", (0, 1))


def power(results: Results) -> Table:
    """Energy for a row, with where the number comes from."""
    rows = []
    idle = results.machines[0].idle_w
    for evidence in _evidences(results):
        for device in evidence.measured:
            fullest, facts = evidence.fullest(device), evidence.facts[device]
            if fullest is None or fullest.state == INVALID:
                continue
            side = facts.computes_on
            by_side = {GPU: (fullest.gpu_j, fullest.gpu_source), CPU: (fullest.cpu_j, fullest.cpu_source)}
            joules, source = by_side.get(side, (None, ""))
            whole = [each for each in (fullest.gpu_j, fullest.cpu_j) if each is not None]
            served = fullest.answers * fullest.key.batch
            if joules is None or not served:
                continue
            net = joules - idle[side] * fullest.duration_s if side in idle else None
            rows.append(
                [
                    evidence.model, device, or_dash(idle.get(side)), or_dash(joules / fullest.duration_s),
                    or_dash(joules / served), or_dash(None if net is None else max(0.0, net) / served),
                    or_dash(sum(whole) / served), source,
                ]
            )  # fmt: skip
    head = ["Model", "Device", "Idle W", "Mean W", "J/row", "J/row, net", "J/row, CPU and GPU", "Source"]
    note = (
        "Net: less what the idle machine draws."
        if rows
        else "Not measurable here: no NVML, no RAPL, and no watts stated (--cpu-power, or idle_w and busy_w in --config)."
        if results.profile != "quick"
        else "The quick profile doesn't measure energy."
    )
    return Table(POWER, head, rows, note, (0, 1, 7))


def agreement(results: Results) -> Table:
    """Whether devices give the same outputs."""
    rows = []
    for each in results.agreements:
        precisions = {
            name for s in results.summaries if (s.key.model, s.key.device) == (each.model, each.device) for name in s.precisions
        }
        same = DASH if each.same_top is None else f"{each.same_top} of {each.rows}"
        error = DASH if each.max_error is None else f"{each.max_error:.1e}"
        rows.append([each.model, each.device, "/".join(sorted(precisions)) or DASH, each.reference, error, same])
    head = ["Model", "Device", "Precision", "Compared with", "Largest difference", "Same largest output"]
    note = "The same random rows on both; the difference is relative to the largest element of the output."
    return Table("Agreement of outputs", head, rows, note if rows else "", (0, 1, 2, 3))


def measurements(results: Results) -> Table:
    """Every experiment, with its state and reasons."""
    rows = []
    for each in results.summaries:
        usable, key, latency = each.state != INVALID, each.key, each.latency

        def bounded(name: str, usable: bool = usable, latency: object = latency) -> str:
            return with_bound(latency.of(name), latency.upper(name)) if usable else DASH  # type: ignore[attr-defined]

        load = f"{three_digits(key.rate_per_s)}/s" if key.rate_per_s else f"{key.in_flight} in flight"
        queue, compute = ((value / 1e3 if usable and value is not None else None) for value in (each.queue_us, each.compute_us))
        rows.append(
            [
                key.model, key.device, key.scenario, str(key.batch), load, _rate(each), bounded("p50"), bounded("p90"),
                bounded("p99"), or_dash(queue), or_dash(compute), str(each.failures), str(each.dropped),
                f"{each.usable} of {each.rounds}", each.state, "; ".join(each.reasons),
            ]
        )  # fmt: skip
    head = [
        "Model", "Device", "Scenario", "Batch", "Load", "Rows/s", "p50 ms", "p90 ms", "p99 ms", "Queue ms", "Compute ms",
        "Failures", "Dropped", "Rounds", "State", "Reasons and remarks",
    ]  # fmt: skip
    return Table("Measurements", head, rows, "", (0, 1, 2, 14, 15), remarks=True)


def offers_of(results: Results, evidence: Evidence, target_ms: float) -> list[Offer]:
    """What each device carries within a target, where that is known."""
    known = carries(results, evidence)
    found = []
    for device in evidence.measured:
        capacity = known[device, target_ms]
        if capacity is not None and capacity.per_s is not None:
            found.append(offer_of(evidence, capacity))
    return found


def loads_of(results: Results, offers: Sequence[Offer]) -> list[float]:
    """Loads that show where answers change: those that were asked for, and the series 1, 2, 5 around what devices carry."""
    usable = [offer.usable_per_s for offer in offers if offer.capacity_per_s > 0]
    if not usable:
        return sorted(results.loads_per_s)
    low, high = min(usable) / 4, max(usable) * 4
    series = [step * 10.0**power for power in range(math.floor(math.log10(low)), 7) for step in (1, 2, 5)]
    within = [load for load in series if low <= load <= high]
    stride = max(1, math.ceil(len(within) / MAX_LOADS))
    return sorted({*within[::stride], *results.loads_per_s})


def _evidences(results: Results) -> list[Evidence]:
    return [evidence_of(results, model) for model in results.models]


def _baseline(evidence: Evidence) -> Summary | None:
    """The best CPU, filled."""
    found = [evidence.fullest(device) for device in evidence.measured if evidence.facts[device].is_cpu]
    usable = [each for each in found if each and each.state != INVALID and each.rows_per_s]
    return max(usable, key=lambda each: each.rows_per_s or 0.0, default=None)


def _speed_up(evidence: Evidence, device: str, base: Summary | None) -> str:
    mine = evidence.fullest(device)
    if base is None or mine is None or mine.key.device == base.key.device:
        return DASH if base is None or mine is None else "1 (the baseline)"
    found = by_throughput(mine, base)
    if found.ratio is None:
        return DASH
    if found.low is None and not found.decided:
        return UNDECIDED
    high = "∞" if found.high is None else three_digits(found.high)
    outcome = "" if found.decided else ", undecided"
    return f"{three_digits(found.ratio)} ({three_digits(found.low or 0.0)} to {high}{outcome})"


def _rate(summary: Summary | None) -> str:
    if summary is None or summary.state == INVALID or summary.rows_per_s is None:
        return DASH
    return f"{'≥ ' if at_least(summary) else ''}{three_digits(summary.rows_per_s)}"


def _share(summary: Summary | None) -> str:
    return DASH if summary is None or summary.state == INVALID or summary.busy_share is None else f"{summary.busy_share:.0%}"


def _count(offer: Offer, count: int) -> str:
    return f"{_bound(offer, count)}{count} x {offer.device}"


def _cost(load: float, offer: Offer) -> str:
    count, hourly, million = needed(load, offer), cost_per_hour(load, offer), cost_per_million(load, offer)
    if count is None:
        return DASH
    bound = _bound(offer, count)
    if hourly is None or million is None:
        return f"{bound}{count} x, price unknown"
    return f"{bound}{count} x = {bound}{_money(hourly)}/h; {bound}{_money(million)} a million"


def _number(load: float, offer: Offer) -> str:
    count = needed(load, offer)
    return DASH if count is None else f"{_bound(offer, count)}{count} x"


def _bound(offer: Offer, count: int | None = None) -> str:
    """A mark if so many devices are only known to be enough; of one, fewer can't be."""
    return "≤ " if offer.at_least and (count is None or count > 1) else ""


def _doubt(load: float, best: Offer, offers: Sequence[Offer]) -> str:
    """A mark if another device may cost less, because it may carry more than was found."""
    mine, other = cost_per_hour(load, best), least_cost_per_hour(load, [each for each in offers if each is not best])
    return " ?" if mine is not None and other is not None and other < mine else ""


def _priced(offer: Offer) -> str:
    price = "price unknown" if offer.price_per_hour is None else f"{offer.price_per_hour:g}/h"
    return f"{offer.device} ({price})"


def _money(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _hours(hours: float) -> str:
    return (
        f"{three_digits(hours)} h"
        if hours >= 1
        else f"{three_digits(hours * 60)} min"
        if hours * 60 >= 1
        else f"{three_digits(hours * 3600)} s"
    )
