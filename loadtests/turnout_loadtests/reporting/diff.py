"""What changed between two results: the same experiment on the same device, before and after.

The answers of one round hang together, so rounds are compared, not their answers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from turnout_loadtests.formatting import or_dash, three_digits
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.comparisons import MARGIN
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.reporting.results import Results
from turnout_loadtests.statistics import Interval, mean_interval

BETTER, WORSE, SAME, UNCLEAR = "better", "worse", "the same", "unclear"
#: Known in one of the results only: its measurement isn't valid after, isn't there after, or wasn't known before.
NOT_VALID, GONE, ONCE = "no longer valid", "no longer there", "only once"


@dataclass(frozen=True)
class Difference:
    """One quantity of one experiment on one device, in two results; None where it isn't known."""

    model: str
    device: str
    experiment: str
    quantity: str
    before: float | None
    after: float | None
    change: str

    @property
    def is_worse(self) -> bool:
        """Whether it became worse by more than chance and the margin, or can't be told any more."""
        return self.change in (WORSE, NOT_VALID, GONE)


def differences(before: Results, after: Results) -> list[Difference]:
    """All quantities that either of the results has."""
    ones, others = _by_experiment(before), _by_experiment(after)
    found = []
    for key in dict.fromkeys([*ones, *others]):
        found += list(_changes(key, ones.get(key), others.get(key)))
    return found


def difference_table(found: list[Difference]) -> Table:
    """A line for each difference."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "device", "experiment", "quantity"):
        table.add_column(column, no_wrap=True)
    for column in ("before", "after", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("change", no_wrap=True)
    for each in found:
        ratio = three_digits(each.after / each.before) if each.before and each.after is not None else "–"  # noqa: RUF001
        table.add_row(
            each.model, each.device, each.experiment, each.quantity, or_dash(each.before), or_dash(each.after), ratio,
            f"[red]{each.change}[/]" if each.is_worse else each.change,
        )  # fmt: skip
    return table


def changed(before: Interval | None, after: Interval | None, *, more_is_better: bool) -> str:
    """How a quantity changed, if at all: its intervals lie apart by more than the margin, or the second is within it.

    An interval is None of fewer than two rounds.
    """
    if before is None or after is None:
        return UNCLEAR
    if after.low > (1 + MARGIN) * before.high:
        return BETTER if more_is_better else WORSE
    if before.low > (1 + MARGIN) * after.high:
        return WORSE if more_is_better else BETTER
    inside = all(before.value / (1 + MARGIN) <= value <= (1 + MARGIN) * before.value for value in (after.low, after.high))
    return SAME if inside else UNCLEAR


def _by_experiment(results: Results) -> dict[tuple[str, str, str], Summary]:
    found = {}
    for each in results.summaries:
        load = f", {each.key.rate_per_s:g}/s" if each.key.rate_per_s else ""
        found[each.key.model, each.key.device, f"{each.key.scenario}, batch {each.key.batch}{load}"] = each
    return found


def _changes(key: tuple[str, str, str], before: Summary | None, after: Summary | None) -> Iterator[Difference]:
    for quantity, more_is_better in (("requests/s", True), ("p50 ms", False), ("p99 ms", False)):
        one, other = _value(before, quantity), _value(after, quantity)
        if one is None and other is None:
            continue
        if one is not None and other is not None:
            change = changed(_interval(before, quantity), _interval(after, quantity), more_is_better=more_is_better)
        elif other is None and after is None:
            change = GONE
        else:
            change = NOT_VALID if other is None and after is not None and after.state == INVALID else ONCE
        yield Difference(*key, quantity, one, other, change)


def _value(summary: Summary | None, quantity: str) -> float | None:
    """The quantity as the report shows it; None if that isn't valid, or of too few answers."""
    if summary is None or summary.state == INVALID:
        return None
    return {"requests/s": summary.rate, "p50 ms": summary.latency.p50_ms, "p99 ms": summary.latency.p99_ms}[quantity]


def _interval(summary: Summary | None, quantity: str) -> Interval | None:
    """The geometric mean of the rounds, with its interval."""
    if summary is None:
        return None
    rounds = {"requests/s": summary.rates, "p50 ms": summary.p50s, "p99 ms": summary.p99s}[quantity]
    found = mean_interval([math.log(value) for value in rounds.values() if value > 0])
    return None if found is None else Interval(*(math.exp(value) for value in found))
