"""Limits that a comparison has to keep, such as `cuda.p99_ms>50`: the condition says what is wrong."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.reporting.results import Results
from turnout_loadtests.sending.load import OFFLINE, SERVER, SINGLE_STREAM

_CONDITION = re.compile(
    r"\s*((?P<model>[^/\s]+)/)?(?P<device>[\w:.,@+-]+)\.(?P<quantity>\w+)\s*(?P<sign>[<>]=?)\s*(?P<limit>\d+(\.\d+)?)\s*"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Threshold:
    """A condition on a quantity of a device: it holds if the comparison fails. `model` is empty for every model."""

    text: str
    model: str
    device: str
    quantity: str
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        """Whether this value fails the comparison."""
        return _SIGNS[self.sign](value, self.limit)


def parse_threshold(text: str) -> Threshold:
    """The condition in a text such as `cuda.p99_ms>50` or `resnet50/cpu.rows_per_s<100`.

    Raises:
        LoadTestError: it isn't one, or there is no such quantity.
    """
    found = _CONDITION.fullmatch(text)
    if not found:
        raise LoadTestError(f"{text!r} is no condition such as 'cuda.p99_ms>50' or 'resnet50/cpu.rows_per_s<100'")
    if found["quantity"] not in QUANTITIES:
        raise LoadTestError(f"{text!r}: '{found['quantity']}' is none of {', '.join(QUANTITIES)}")
    return Threshold(text, found["model"] or "", found["device"], found["quantity"], found["sign"], float(found["limit"]))


def breached(results: Results, thresholds: Sequence[Threshold]) -> list[str]:
    """A line for each condition that holds, or that can't be checked because there is no valid number."""
    lines = []
    for threshold in thresholds:
        for model in [threshold.model] if threshold.model else results.models:
            value = QUANTITIES[threshold.quantity](results, model, threshold.device)
            if value is None:
                lines.append(f"{threshold.text}: {model} has no valid {threshold.quantity} on {threshold.device}")
            elif threshold.holds(value):
                lines.append(f"{threshold.text}: {model} has {three_digits(value)} on {threshold.device}")
    return lines


def _summaries(results: Results, model: str, device: str, scenario: str, rate_per_s: float = 0.0) -> list[Summary]:
    """The valid summaries of a device under a scenario, at this rate."""
    asked = model, device, scenario, rate_per_s
    return [
        each
        for each in results.summaries
        if (each.key.model, each.key.device, each.key.scenario, each.key.rate_per_s) == asked and each.state != INVALID
    ]


def _percentile(name: str) -> Callable[[Results, str, str], float | None]:
    """A percentile at the first load that was asked for; if none was, of one request at a time."""

    def read(results: Results, model: str, device: str) -> float | None:
        scenario, rate_per_s = (SERVER, results.loads_per_s[0]) if results.loads_per_s else (SINGLE_STREAM, 0.0)
        found = _summaries(results, model, device, scenario, rate_per_s)
        return found[0].latency.of(name) if found else None

    return read


def _rows_per_s(results: Results, model: str, device: str) -> float | None:
    rates = [each.rows_per_s for each in _summaries(results, model, device, OFFLINE) if each.rows_per_s is not None]
    return max(rates, default=None)


def _capacity_per_s(results: Results, model: str, device: str) -> float | None:
    found = (each.per_s for each in results.capacities if (each.model, each.device) == (model, device))
    return next(found, None)


def _failures_percent(results: Results, model: str, device: str) -> float | None:
    cells = [cell for cell in results.cells if (cell.model, cell.device) == (model, device) and cell.round]
    requests = sum(cell.requests for cell in cells)
    return 100 * sum(cell.failures for cell in cells) / requests if requests else None


QUANTITIES: dict[str, Callable[[Results, str, str], float | None]] = {
    "p50_ms": _percentile("p50"),
    "p90_ms": _percentile("p90"),
    "p95_ms": _percentile("p95"),
    "p99_ms": _percentile("p99"),
    "rows_per_s": _rows_per_s,
    "capacity_per_s": _capacity_per_s,
    "failures_percent": _failures_percent,
}
