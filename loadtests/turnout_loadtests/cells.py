"""A cell is one model on one device under one load. This module turns its raw samples into its row of the report."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from turnout_loadtests.samples import Samples
from turnout_loadtests.statistics import median, per_second, percentile

CLIENT_LIMIT_CPU = 0.85  # of the one core that a Locust process can use
CLIENT_LIMITED = "client-limited"
NOISY_PRESSURE_PERCENT = 10.0
NOISY = "noisy"


@dataclass(frozen=True)
class Load:
    """The load of one cell. It is closed: each user waits for its answer before it sends again."""

    host: str
    model: str
    device: str
    batch: int = 1
    users: int = 4
    warm_up_s: float = 1.0
    duration_s: float = 5.0
    shape: str = ""
    inputs: str = ""


@dataclass(frozen=True)
class Cell:
    """What was measured in one cell. A percentile is None if there were too few samples for it.

    `service_*` is the time from sending a request to receiving its answer, of answered requests only. `queue_*` and
    `compute_*` are what the server states in its answers. `client_cpu` is the sender's use of one core, from 0 to 1;
    `idle_pressure_percent` is the share of time in which other work kept tasks waiting for a processor, just before the load.
    """

    model: str
    device: str
    batch: int
    users: int
    arrival: str
    round: int
    duration_s: float
    requests: int
    failures: int
    failures_by_code: dict[str, int]
    requests_per_s: float
    rows_per_s: float
    service_p50_ms: float | None
    service_p90_ms: float | None
    service_p95_ms: float | None
    service_p99_ms: float | None
    queue_p50_us: float | None
    compute_p50_us: float | None
    rows_run_together: float | None
    answered_by: dict[str, int]
    client_cpu: float
    idle_pressure_percent: float | None
    flags: list[str]
    command: str


def summarise(load: Load, samples: Samples, command: str, idle_pressure_percent: float | None) -> Cell:
    """The cell of these samples: latency and counts of what began in the window, throughput of what ended in it."""
    begin_s, end_s = map(float, samples.window_s)
    duration_s = end_s - begin_s if begin_s < end_s < math.inf else 0.0
    answered = samples.code == "OK"
    counted = (samples.began_s >= begin_s) & (samples.began_s < end_s)
    good = counted & answered
    ended = answered & (samples.ended_s >= begin_s) & (samples.ended_s < end_s)
    service_ms = (samples.ended_s - samples.began_s)[good] * 1e3
    requests_per_s = per_second(int(ended.sum()), duration_s)
    client_cpu = float(samples.client_cpu_s) / duration_s if duration_s else 0.0
    failed = _counts(samples.code[counted & ~answered])
    return Cell(
        model=load.model,
        device=load.device,
        batch=load.batch,
        users=load.users,
        arrival="closed",
        round=1,
        duration_s=duration_s,
        requests=int(counted.sum()),
        failures=sum(failed.values()),
        failures_by_code=failed,
        requests_per_s=requests_per_s,
        rows_per_s=requests_per_s * load.batch,
        service_p50_ms=percentile(service_ms, 0.50),
        service_p90_ms=percentile(service_ms, 0.90),
        service_p95_ms=percentile(service_ms, 0.95),
        service_p99_ms=percentile(service_ms, 0.99),
        queue_p50_us=median(samples.queue_us[good]),
        compute_p50_us=median(samples.compute_us[good]),
        rows_run_together=median(samples.batch_size[good & (samples.batch_size > 0)]),
        answered_by=_counts(samples.device[good]),
        client_cpu=client_cpu,
        idle_pressure_percent=idle_pressure_percent,
        flags=flags(sum(failed.values()), int(good.sum()), client_cpu, idle_pressure_percent or 0.0),
        command=command,
    )


def flags(failures: int, answers: int, client_cpu: float, pressure_percent: float) -> list[str]:
    """The reasons for not taking the cell's numbers at face value."""
    stated = {
        "no answers": not answers,
        "failures": failures > 0,
        CLIENT_LIMITED: client_cpu > CLIENT_LIMIT_CPU,
        NOISY: pressure_percent > NOISY_PRESSURE_PERCENT,
    }
    return [name for name, holds in stated.items() if holds]


def _counts(values: NDArray[Any]) -> dict[str, int]:
    counted: Counter[Any] = Counter(values.tolist())
    return dict(sorted(counted.items()))
