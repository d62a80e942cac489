"""What changed between two results: the same experiment on the same device, before and after."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from turnout_loadtests.formatting import or_dash, three_digits
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.comparisons import MARGIN
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.reporting.results import Results
from turnout_loadtests.statistics import Interval

BETTER, WORSE, SAME, UNCLEAR, MISSING = "better", "worse", "the same", "unclear", "only once"


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
        """Whether it became worse by more than chance and the margin."""
        return self.change == WORSE


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
    """How a quantity changed, if at all: its intervals lie apart by more than the margin, or both are within it."""
    if before is None or after is None:
        return MISSING if before is not after else UNCLEAR
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
        one, other = (_interval(side, quantity) for side in (before, after))
        if one or other:
            change = changed(one, other, more_is_better=more_is_better)
            yield Difference(*key, quantity, one and one.value, other and other.value, change)


def _interval(summary: Summary | None, quantity: str) -> Interval | None:
    if summary is None or summary.state == INVALID:
        return None
    latency = summary.latency
    if quantity == "requests/s":
        values = summary.rate, summary.rate_low, summary.rate_high
    elif quantity == "p50 ms":
        values = latency.p50_ms, latency.p50_ms, latency.p50_upper_ms
    else:
        values = latency.p99_ms, summary.p99_lower_ms, latency.p99_upper_ms
    value, low, high = values
    return None if value is None or low is None or high is None else Interval(value, low, high)
