"""The rounds of one experiment on one device, taken together: percentiles of all their answers, rates with their spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout_loadtests.judging.cells import INVALID, LIMITED, VALID, Cell, Percentiles, percentiles
from turnout_loadtests.judging.validity import OVERLOADED, overloaded
from turnout_loadtests.statistics import lower_bound, mean_interval, nearest_rank

#: Answers of a round below which it has no p99.
MIN_TAIL_ANSWERS = 44
#: The quantiles of the curve that a chart of the distribution draws.
CURVE = (0.01, 0.05, *(step / 10 for step in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Key:
    """What the rounds of an experiment have in common."""

    model: str
    device: str
    scenario: str
    batch: int
    in_flight: int
    rate_per_s: float = 0.0

    @property
    def experiment(self) -> tuple[str, str, int, float]:
        """What devices are compared by: the same but for the device, and for how many requests it takes to fill it."""
        return self.model, self.scenario, self.batch, self.rate_per_s


@dataclass(frozen=True)
class Summary:
    """What the usable rounds of an experiment on a device say together.

    Attributes:
        state: INVALID if fewer than half of its rounds can be used, LIMITED if one of those is.
        rates: requests per second of each usable round, by its number.
        p50s, p99s: latency in milliseconds likewise; from when requests were due. A round has a p99 from 44 answers on: few for
            one alone, but rounds are compared together.
        rate_low, rate_high: the interval of the mean rate; None of a single round.
        latency: of all answers of the usable rounds.
        p99_lower_ms: what the true p99 isn't below.
        curve: quantiles (0 to 1) and milliseconds.
        headroom: the largest of the rounds.
        joules_per_row, watts: by the source that is named with them; None if it isn't known.
        dropped: requests of all rounds that weren't sent because too many were in flight.
        overloaded: how the device fell behind the load, in the rounds that say so of it; empty if it didn't.
    """

    key: Key
    state: str
    reasons: list[str]
    rounds: int
    usable: int
    answers: int
    failures: int
    rates: dict[str, float]
    p50s: dict[str, float]
    p99s: dict[str, float]
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    goodput_per_s: float | None
    latency: Percentiles
    p99_lower_ms: float | None
    curve: list[tuple[float, float]]
    queue_us: float | None
    compute_us: float | None
    decode_us: float | None
    server_mean_us: float | None
    rows_run_together: float | None
    busy_share: float | None
    answered_by: dict[str, int]
    precisions: list[str]
    headroom: float | None
    client_cpu: float
    duration_s: float
    gpu_j: float | None = None
    gpu_source: str = ""
    cpu_j: float | None = None
    cpu_source: str = ""
    target_ms: float | None = None
    notes: list[str] = field(default_factory=list)
    dropped: int = 0
    overloaded: str = ""

    @property
    def rows_per_s(self) -> float | None:
        """Rows per second."""
        return None if self.rate is None else self.rate * self.key.batch


def key_of(cell: Cell) -> Key:
    """The experiment that a cell is a round of."""
    return Key(cell.model, cell.device, cell.scenario, cell.batch, cell.in_flight, cell.rate_per_s)


def summarised(cells: Sequence[Cell], times_ms: Mapping[int, NDArray[Any]]) -> Summary:
    """The summary of an experiment's rounds.

    Args:
        cells: all with the same key.
        times_ms: the latencies of each round's answers, by the round's number.
    """
    usable = [cell for cell in cells if cell.state != INVALID]
    states = {cell.state for cell in usable}
    enough = len(usable) * 2 >= len(cells) and usable
    rates = {str(cell.round): cell.requests_per_s for cell in usable if cell.requests_per_s is not None}
    interval = mean_interval(list(rates.values()))
    times_ms = {cell.round: times_ms[cell.round] for cell in usable}
    times = np.concatenate(list(times_ms.values())) if usable else np.array([])
    headrooms = [cell.headroom for cell in usable]
    shown = usable or list(cells)
    its_own = [
        cell for cell in cells if cell.state == VALID or any(reason.startswith(OVERLOADED) for reason in cell.reasons[:1])
    ]
    overload = overloaded(its_own)
    return Summary(
        key=key_of(cells[0]),
        state=INVALID if not enough else LIMITED if LIMITED in states else VALID,
        reasons=_reasons(cells, overload),
        rounds=len(cells),
        usable=len(usable),
        answers=sum(cell.answers for cell in usable),
        failures=sum(cell.failures for cell in cells),
        rates=rates,
        p50s={str(cell.round): cell.response.p50_ms for cell in usable if cell.response.p50_ms is not None},
        p99s={str(number): nearest_rank(found, 0.99) for number, found in times_ms.items() if len(found) >= MIN_TAIL_ANSWERS},
        rate=_mean(list(rates.values())),
        rate_low=interval and max(0.0, interval.low),
        rate_high=interval and interval.high,
        goodput_per_s=_mean([cell.goodput_per_s for cell in usable]),
        latency=percentiles(times),
        p99_lower_ms=lower_bound(times, 0.99) if len(times) else None,
        curve=_curve(times),
        queue_us=_mean([cell.server.queue_us for cell in usable]),
        compute_us=_mean([cell.server.compute_us for cell in usable]),
        decode_us=_mean([cell.server.decode_us for cell in usable]),
        server_mean_us=_mean([cell.server.total_mean_us for cell in usable]),
        rows_run_together=_mean([cell.server.rows_run_together for cell in usable]),
        busy_share=_mean([cell.busy_share for cell in usable]),
        answered_by=_added([cell.answered_by for cell in cells]),
        precisions=sorted({precision for cell in usable for precision in cell.precisions}),
        headroom=None if None in headrooms or not headrooms else max(room for room in headrooms if room is not None),
        client_cpu=_mean([cell.client.cpu for cell in shown]) or 0.0,
        duration_s=sum(cell.duration_s for cell in usable),
        gpu_j=_sum([cell.gpu.joules for cell in usable]),
        gpu_source=next((cell.gpu.source for cell in usable), ""),
        cpu_j=_sum([cell.cpu.joules for cell in usable]),
        cpu_source=next((cell.cpu.source for cell in usable), ""),
        target_ms=cells[0].target_ms,
        dropped=sum(cell.dropped for cell in cells),
        overloaded=overload,
    )


def _reasons(cells: Sequence[Cell], overload: str) -> list[str]:
    """The reasons of all rounds, each once, those of the worst state first; an overload is told of them together."""
    order = {INVALID: 0, LIMITED: 1, VALID: 2}
    by_state = sorted(cells, key=lambda cell: order[cell.state])
    found = [reason for cell in by_state for reason in cell.reasons if not reason.startswith(OVERLOADED)]
    return list(dict.fromkeys([*([f"{OVERLOADED}: {overload}"] if overload else []), *found]))[:4]


def _curve(times: NDArray[Any]) -> list[tuple[float, float]]:
    if not len(times):
        return []
    ordered = np.sort(times)
    points = [quantile for quantile in CURVE if quantile <= 0.5 or (1 - quantile) * len(times) >= 1]
    return [(quantile, float(ordered[min(len(ordered) - 1, int(quantile * len(ordered)))])) for quantile in points]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))
