"""The explanation as a page for a terminal."""

from collections.abc import Iterator

from turnout_server.cli.textpage import line, table, wrapped
from turnout_server.explain.answer import DeviceFacts, Explanation

#: Why a device was chosen, by the route's reason.
_REASONS = {
    "requested": "the request names it",
    "only-device": "every other device is ruled out",
    "earliest": "it would finish first",
    "cheapest-in-time": "it is the cheapest that finishes in time",
    "preference": "it is the first in the order of preference that can take it",
    "spill": "a device that is faster, or preferred, is too busy, or kept for others",
}


def as_text(explanation: Explanation, *, live: bool) -> str:
    """The page.

    Args:
        live: whether it comes from a running server, with the queues of that moment.
    """
    sections = {
        "REQUEST": list(_request(explanation)),
        "DEVICES": list(_devices(explanation)),
        "WHY NOT": list(_problems(explanation)),
        "PROFILES": list(_profiles(explanation)),
        "BATCHES": list(_batch_limits(explanation)),
        "LOAD": list(_loads(explanation)),
        "CORES": list(_cores(explanation)),
    }
    blocks = [f"{title}\n" + "\n".join(lines) for title, lines in sections.items() if lines]
    return "\n\n".join(["\n".join(_verdict(explanation, live)), *blocks])


def _verdict(explanation: Explanation, live: bool) -> list[str]:
    what = f"{_rows(explanation.rows)} of {explanation.model}, version {explanation.version},"
    if not explanation.device:
        return wrapped(f"{what} would be refused: {explanation.problem}", 2)
    when = "" if explanation.predicted_us is None else f", in {_time(explanation.predicted_us)}"
    state = "as its queues are now" if live else "on an idle server"
    return wrapped(f"{what} would run on {explanation.device}: {_why(explanation)}{when} ({state})", 2)


def _why(explanation: Explanation) -> str:
    finishes_us = {facts.name: facts.predicted_finish_us for facts in explanation.devices if facts.asked and not facts.problem}
    mine_us = finishes_us.get(explanation.device)
    sooner = [us for us in finishes_us.values() if us is not None and mine_us is not None and us < mine_us]
    if explanation.reason == "earliest" and sooner and explanation.device == explanation.last:
        return "the last such request ran there, and no other device is sooner by enough to change"
    if explanation.reason == "earliest" and sooner:
        return "where it would be sooner, it would make others wait"
    return _REASONS.get(explanation.reason, explanation.reason)


def _request(explanation: Explanation) -> Iterator[str]:
    yield line("device", explanation.requested)
    yield line("objective", explanation.objective)
    if explanation.deadline_us is not None:
        yield line("deadline", f"in {_time(explanation.deadline_us)}")
    if explanation.target_us is not None:
        yield line("latency target", f"{_time(explanation.target_us)}, of the model")
    if explanation.device:
        yield line("route_reason", explanation.reason)


def _devices(explanation: Explanation) -> Iterator[str]:
    header = ("device", "one run", "waiting", "running", "finishes in", "others wait", "cost of a million", "energy", "")
    rows = [_device(facts, explanation) for facts in explanation.devices]
    known = [column for column in range(len(header)) if any(row[column] != "-" for row in rows)]
    yield from table(_only(header, known), [_only(row, known) for row in rows])


def _device(facts: DeviceFacts, explanation: Explanation) -> tuple[str, ...]:
    return (
        facts.name,
        _time(facts.service_us),
        str(facts.waiting) if facts.cap else "-",
        str(facts.running) if facts.cap else "-",
        _time(facts.predicted_finish_us),
        _time(facts.delay_us),
        "-" if facts.cost_per_million is None else f"{facts.cost_per_million:.3g}",
        "-" if facts.energy_j is None else f"{facts.energy_j:.3g} J",
        _role(facts, explanation),
    )


def _role(facts: DeviceFacts, explanation: Explanation) -> str:
    """The device's role in the decision."""
    if facts.name == explanation.device:
        return "chosen"
    if not facts.asked:
        return "not asked for"
    return "ruled out" if facts.problem else "could take it"


def _problems(explanation: Explanation) -> Iterator[str]:
    for facts in explanation.devices:
        if facts.problem:
            yield line(facts.name, facts.problem)


def _profiles(explanation: Explanation) -> Iterator[str]:
    rows = [
        (
            facts.name,
            size,
            _time(estimate["service_us"]),
            _time(estimate["service_us"] / int(size)),
            _time(estimate["spread_us"]),
            _time(estimate["fastest_us"]),
            str(int(estimate["runs"])),
        )
        for facts in explanation.devices
        for size, estimate in facts.profile.items()
    ]
    if rows:
        yield from table(("device", "rows", "a run", "a row", "spread", "fastest", "runs"), rows)


def _batch_limits(explanation: Explanation) -> Iterator[str]:
    for facts in explanation.devices:
        if facts.cap:
            yield line(facts.name, f"at most {_rows(facts.cap)} in a run: {facts.cap_reason}")


def _loads(explanation: Explanation) -> Iterator[str]:
    loads = {facts.name: facts.load for facts in explanation.devices if facts.load is not None}
    for name, load in loads.items():
        rate, most = _rate(load.rate_per_s), _rate(load.most_per_s)
        if load.wait_us is None:
            yield line(name, f"cannot carry {rate}: {most} is the most")
        else:
            yield line(
                name,
                f"carries {rate}; {most} is the most. Busy {load.utilisation:.0%} of the time, {_rows(load.batch_rows)} in a "
                f"run; a request would wait {_time(load.wait_us)} on average",
            )
    if loads:
        text = "a formula, not a measurement: M/D/1 over the profile; requests at random, and nothing else on the device"
        yield from wrapped(f"  ({text})", 3)


def _cores(explanation: Explanation) -> Iterator[str]:
    """Whether several requests at a time have a core each."""
    for facts in explanation.devices:
        if facts.together_per_s is None or facts.per_core_per_s is None:
            continue
        yield line(
            facts.name,
            f"a run on each of {facts.cores} cores carries {_rate(facts.per_core_per_s)}, one on all of them "
            f"{_rate(facts.together_per_s)}: "
            + ("so each core has its own where enough requests wait" if facts.per_core else "so a run has all of them"),
        )


def _only(cells: tuple[str, ...], columns: list[int]) -> tuple[str, ...]:
    return tuple(cells[column] for column in columns)


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


def _rate(rate_per_s: float) -> str:
    return f"{rate_per_s:,.0f}/s" if rate_per_s >= 100 else f"{rate_per_s:.3g}/s"


def _time(duration_us: float | None) -> str:
    if duration_us is None:
        return "-"
    for limit_us, unit_us, unit in ((1e3, 1.0, "us"), (1e6, 1e3, "ms")):
        if duration_us < limit_us:
            return f"{duration_us / unit_us:.3g} {unit}"
    return f"{duration_us / 1e6:.3g} s"
