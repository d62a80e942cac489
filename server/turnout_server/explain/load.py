"""What a steady load would mean for a device: computed from its profile, not measured.

Assumes Poisson arrivals, service times as in the profile, and no other load on the device. Without batching, requests wait as
in an M/D/1 queue, and on several instances as in Sakasegawa's approximation (1977). With batching, an arrival waits for the
rest of the run in progress, half a run on average, and longer as the load approaches the device's capacity. In simulations
(tests/server/explain/test_load.py) requests wait no longer than this, and at least half as long.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """A load on one device.

    Attributes:
        rate_per_s: requests per second.
        most_per_s: the device's capacity in requests per second, with the largest batches allowed.
        batch_rows: rows per run: those that arrive during a run, but at least one request's.
        utilisation: the share of time that the instances would be busy; above 1, the load relative to capacity.
        wait_us: mean time in the queue; None if the queue would grow without bound.
    """

    rate_per_s: float
    most_per_s: float
    batch_rows: int
    utilisation: float
    wait_us: float | None


def load(rate_per_s: float, rows: int, effective_max_batch: int, instances: int, service_us: Callable[[int], float]) -> Load:
    """What a load of `rate_per_s` requests of `rows` rows each would mean.

    Args:
        effective_max_batch: the most rows worth batching in one run.
        service_us: the service time of a number of rows.
    """
    batches = [rows * requests for requests in range(1, max(1, effective_max_batch // rows) + 1)]
    carries_per_s = {batch: batch / rows * instances / service_us(batch) * 1e6 for batch in batches}
    most_per_s = max(carries_per_s.values())
    if rate_per_s >= most_per_s:
        return Load(rate_per_s, most_per_s, max(carries_per_s, key=carries_per_s.__getitem__), rate_per_s / most_per_s, None)
    batch = next(batch for batch in batches if carries_per_s[batch] > rate_per_s)
    busy = min(1.0, rate_per_s / carries_per_s[rows])
    all_busy: float = busy ** (math.sqrt(2 * (instances + 1)) - 1)
    wait_us = service_us(batch) / 2 * all_busy / instances / (1 - rate_per_s / most_per_s)
    return Load(rate_per_s, most_per_s, batch, busy, wait_us)
