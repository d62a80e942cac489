"""A cell is one measurement: one model on one device under one load. This module turns its raw samples into numbers."""

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout_loadtests.measuring.energy import Energy
from turnout_loadtests.measuring.machine import MachineUse
from turnout_loadtests.sending.load import OPEN, Load
from turnout_loadtests.sending.samples import OK, Samples
from turnout_loadtests.statistics import median, minimum_samples, per_second, percentile, upper_bound

VALID, LIMITED, INVALID = "VALID", "LIMITED", "INVALID"
QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
#: Answers below which the rate of a cell isn't given, and how often each request in flight must have been answered.
RATE_ANSWERS, RATE_TURNS = 25, 5
#: The parts of a window whose rates are compared.
PARTS = 3


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a time in milliseconds, each with the value that it doesn't exceed with 99 % confidence.

    None where there were too few samples: p50 needs 7, p90 44, p95 90, p99 459.
    """

    mean_ms: float | None = None
    p50_ms: float | None = None
    p50_upper_ms: float | None = None
    p90_ms: float | None = None
    p90_upper_ms: float | None = None
    p95_ms: float | None = None
    p95_upper_ms: float | None = None
    p99_ms: float | None = None
    p99_upper_ms: float | None = None
    max_ms: float | None = None

    def of(self, name: str) -> float | None:
        """The percentile of this name, such as `p99`."""
        value: float | None = getattr(self, f"{name}_ms")
        return value

    def upper(self, name: str) -> float | None:
        """Its bound."""
        value: float | None = getattr(self, f"{name}_upper_ms")
        return value


@dataclass(frozen=True)
class ServerTimes:
    """What the server states in its answers, in microseconds; medians, and the mean of the whole. None if unstated."""

    decode_us: float | None = None
    queue_us: float | None = None
    compute_us: float | None = None
    total_mean_us: float | None = None
    rows_run_together: float | None = None


@dataclass(frozen=True)
class ClientUse:
    """What sending cost.

    Attributes:
        processes: sending processes.
        cpu: processor time of each on average, as a share of one core.
        wait: time for which its threads could run and waited for a processor, as a share of the window.
        lag_p99_ms: how late requests of an open load were sent, p99.
    """

    processes: int = 1
    cpu: float = 0.0
    wait: float = 0.0
    lag_p99_ms: float | None = None


@dataclass(frozen=True)
class Cell:
    """What was measured under one load, once.

    Attributes:
        round: which repetition this is, from 1; 0 for a trial of the search for the capacity.
        requests: those that were due in the window; `answers` of them were answered and `failures` failed.
        dropped: arrivals that weren't sent because too many were in flight.
        requests_per_s, rows_per_s: answers that ended in the window; None if there were too few for a rate.
        goodput_per_s: answers per second within the latency target; None without one.
        service: from sending a request to its answer. `response`: from the moment at which it was due.
        in_flight: planned; `in_flight_mean`: as counted while it ran; `in_flight_end`: when the window ended.
        part_rates: requests per second in each third of the window.
        scatter: standard deviation of the service time, in means.
        busy_share: the share of the window in which the device ran something, 0 to 1, and where that comes from.
        state, reasons: whether the numbers may be used, and why not, or with which reservation.
        headroom: by which factor the device may be faster than measured, because sending took time or cores from it; 1 if it
            didn't, None if it isn't known.
    """

    model: str
    device: str
    batch: int
    scenario: str
    arrival: str
    in_flight: int
    rate_per_s: float
    round: int
    begun: str
    duration_s: float
    requests: int
    answers: int
    failures: int
    failures_by_code: dict[str, int]
    failure_texts: dict[str, int]
    dropped: int
    requests_per_s: float | None
    rows_per_s: float | None
    goodput_per_s: float | None
    service: Percentiles
    response: Percentiles
    server: ServerTimes
    answered_by: dict[str, int]
    precisions: dict[str, int]
    in_flight_mean: float
    in_flight_end: int
    part_rates: list[float]
    scatter: float
    client: ClientUse
    machine: MachineUse
    busy_share: float | None
    busy_source: str
    gpu: Energy
    cpu: Energy
    command: str
    target_ms: float | None = None
    stopped_early: bool = False
    state: str = VALID
    reasons: list[str] = field(default_factory=list)
    headroom: float | None = 1.0

    @property
    def is_single_stream(self) -> bool:
        """Whether one request was in flight at a time."""
        return self.arrival != OPEN and self.in_flight == 1

    @property
    def file_name(self) -> str:
        """A name for the file with its samples, without an ending."""
        place = f"{self.rate_per_s:.4g}s" if self.rate_per_s else f"n{self.in_flight}"
        time = re.sub(r"\D", "", self.begun[11:23])  # trials of a search may be alike
        name = f"{self.model}-{self.device}-{self.scenario}-b{self.batch}-{place}-r{self.round}-{time}"
        return re.sub(r"[^\w.-]", "_", name)

    @property
    def failure_share(self) -> float:
        """The share of the requests that failed, 0 to 1."""
        return self.failures / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Surroundings:
    """What was measured around a load, beside its samples."""

    machine: MachineUse = field(default_factory=MachineUse)
    busy_share: float | None = None
    busy_source: str = ""
    gpu: Energy = field(default_factory=Energy)
    cpu: Energy = field(default_factory=Energy)


def summarise(load: Load, samples: Samples, around: Surroundings, command: str, round_number: int = 1, begun: str = "") -> Cell:
    """The cell of these samples: latency and counts of what was due in the window, throughput of what ended in it."""
    begin_s, end_s = map(float, samples.window_s)
    duration_s = end_s - begin_s if begin_s < end_s < math.inf else 0.0
    answered = samples.code == OK
    counted = (samples.due_s >= begin_s) & (samples.due_s < end_s)
    good = counted & answered
    ended_s = samples.ended_s[answered & (samples.ended_s >= begin_s) & (samples.ended_s < end_s)]
    service_ms = (samples.ended_s - samples.began_s)[good] * 1e3
    response_ms = (samples.ended_s - samples.due_s)[good] * 1e3
    lag_ms = (samples.began_s - samples.due_s)[counted] * 1e3
    failed = _counts(samples.code[counted & ~answered])
    enough = len(ended_s) >= answers_needed(load.in_flight if load.arrival != OPEN else 1)
    rate = per_second(len(ended_s), duration_s) if enough else None
    in_time = int((response_ms <= load.target_ms).sum()) if load.target_ms is not None else None
    busy = around.busy_share
    return Cell(
        model=load.model,
        device=load.device,
        batch=load.batch,
        scenario=load.scenario,
        arrival=load.arrival,
        in_flight=load.in_flight,
        rate_per_s=load.rate_per_s,
        round=round_number,
        begun=begun,
        duration_s=duration_s,
        requests=int(counted.sum()),
        answers=int(good.sum()),
        failures=sum(failed.values()),
        failures_by_code=failed,
        failure_texts=samples.texts,
        dropped=samples.dropped,
        requests_per_s=rate,
        rows_per_s=None if rate is None else rate * load.batch,
        goodput_per_s=None if in_time is None else per_second(in_time, duration_s),
        service=percentiles(service_ms),
        response=percentiles(response_ms),
        server=_server_times(samples, good),
        answered_by=_counts(samples.device[good]),
        precisions=_counts(samples.precision[good & (samples.precision != "")]),
        in_flight_mean=samples.in_flight,
        in_flight_end=int(((samples.began_s < end_s) & (samples.ended_s >= end_s)).sum()),
        part_rates=_part_rates(ended_s, begin_s, duration_s),
        scatter=float(service_ms.std() / service_ms.mean()) if service_ms.any() else 0.0,
        client=ClientUse(
            processes=samples.processes,
            cpu=samples.client_cpu_s / duration_s / samples.processes if duration_s else 0.0,
            wait=samples.client_wait_s / duration_s / samples.processes if duration_s else 0.0,
            lag_p99_ms=percentile(lag_ms, 0.99) if load.arrival == OPEN else None,
        ),
        machine=around.machine,
        busy_share=_busy_share(samples, good, load.batch, duration_s) if busy is None else busy,
        busy_source=around.busy_source or "answers",
        gpu=around.gpu,
        cpu=around.cpu,
        command=command,
        target_ms=load.target_ms,
        stopped_early=duration_s < 0.98 * load.duration_s,
    )


def answers_needed(in_flight: int) -> int:
    """How many answers a rate needs: with fewer, the requests cut off at the window's ends change it by over a tenth."""
    return max(RATE_ANSWERS, RATE_TURNS * in_flight)


def percentiles(times_ms: NDArray[Any]) -> Percentiles:
    """The percentiles of these times."""
    found: dict[str, float | None] = {}
    for name, quantile in QUANTILES.items():
        found[f"{name}_ms"] = percentile(times_ms, quantile)
        found[f"{name}_upper_ms"] = upper_bound(times_ms, quantile)
    mean, longest = (float(times_ms.mean()), float(times_ms.max())) if len(times_ms) else (None, None)
    return Percentiles(mean_ms=mean, max_ms=longest, **found)


def _server_times(samples: Samples, good: NDArray[np.bool_]) -> ServerTimes:
    """Medians of what the answers state. A server that states nothing of a kind has zeros there, which count as nothing."""
    stated = good & (samples.compute_us > 0)
    if int(stated.sum()) < minimum_samples(0.5):
        return ServerTimes()
    total = samples.decode_us + samples.queue_us + samples.compute_us
    return ServerTimes(
        decode_us=median(samples.decode_us[stated]),
        queue_us=median(samples.queue_us[stated]),
        compute_us=median(samples.compute_us[stated]),
        total_mean_us=float(total[stated].mean()),
        rows_run_together=median(samples.batch_size[stated & (samples.batch_size > 0)]),
    )


def _busy_share(samples: Samples, good: NDArray[np.bool_], batch: int, duration_s: float) -> float | None:
    """The device's busy time by its answers: each stands for its rows' part of a run. None if they don't state both."""
    stated = good & (samples.batch_size > 0) & (samples.compute_us > 0)
    if not stated.any() or duration_s <= 0:
        return None
    parts = samples.compute_us[stated] * np.minimum(1.0, batch / samples.batch_size[stated])
    return min(1.0, float(parts.sum()) / 1e6 / duration_s)  # several instances may run at once


def _part_rates(ended_s: NDArray[np.float64], begin_s: float, duration_s: float) -> list[float]:
    if duration_s <= 0:
        return []
    counts, _ = np.histogram(ended_s, bins=PARTS, range=(begin_s, begin_s + duration_s))
    return [per_second(int(count), duration_s / PARTS) for count in counts]


def _counts(values: NDArray[Any]) -> dict[str, int]:
    counted: Counter[Any] = Counter(values.tolist())
    return dict(sorted(counted.items()))
