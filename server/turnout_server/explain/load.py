"""What a steady load would mean for a device: a formula over its profile, not a measurement.

Requests come at random (Poisson), each run takes what runs of its size take, and nothing else is on the device. What isn't
joined waits as in an M/D/1 queue; on several instances, as Sakasegawa approximates it (1977). Where requests are joined,
whoever comes waits for the rest of the run that is on, which is half of one, and longer the nearer the load is to all that the
device could do. Beside a simulation (tests/server/test_utilisation.py) this is never too short, and less than twice too long.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """A load on one device.

    Attributes:
        rate_per_s: requests a second.
        most_per_s: the highest rate that the device could carry, with batches as large as they may be.
        batch_rows: rows that would run together: as many as come during a run, if that is more than one request's.
        utilisation: the share of the time that its instances would be busy; above 1, of what they could do at most.
        wait_us: how long a request would wait for its run; None where the queue would grow without end.
    """

    rate_per_s: float
    most_per_s: float
    batch_rows: int
    utilisation: float
    wait_us: float | None


def load(rate_per_s: float, rows: int, cap: int, instances: int, service_us: Callable[[int], float]) -> Load:
    """What `rate_per_s` requests of so many rows each would mean.

    Args:
        cap: the most rows worth joining.
        service_us: what so many rows take.
    """
    batches = [rows * requests for requests in range(1, max(1, cap // rows) + 1)]
    carries_per_s = {batch: batch / rows * instances / service_us(batch) * 1e6 for batch in batches}
    most_per_s = max(carries_per_s.values())
    if rate_per_s >= most_per_s:
        return Load(rate_per_s, most_per_s, max(carries_per_s, key=carries_per_s.__getitem__), rate_per_s / most_per_s, None)
    batch = next(batch for batch in batches if carries_per_s[batch] > rate_per_s)
    busy = min(1.0, rate_per_s / carries_per_s[rows])
    all_busy: float = busy ** (math.sqrt(2 * (instances + 1)) - 1)
    wait_us = service_us(batch) / 2 * all_busy / instances / (1 - rate_per_s / most_per_s)
    return Load(rate_per_s, most_per_s, batch, busy, wait_us)
