"""What a steady load would mean for a device: a formula over its profile, not a measurement.

Requests come at random (Poisson) and each run takes what runs of its size take, so a queue is M/D/1; several instances follow
Sakasegawa's approximation (1977), of which M/D/1 is the case of one. A device joins only what waits for it, so the batch is
taken that makes waiting and running together the shortest. Nothing else is taken to run on the device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """A load on one device.

    Attributes:
        rate_per_s: requests a second.
        most_per_s: the highest rate that the device could carry.
        batch_rows: rows that would run together.
        utilisation: the share of the time that its instances would be busy; 1 or more is more than they can do.
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
    most_per_s = max(batch / rows * instances / service_us(batch) * 1e6 for batch in batches)

    def busy(batch: int) -> float:
        return rate_per_s * rows / batch * service_us(batch) * 1e-6 / instances

    fast_enough = [batch for batch in batches if busy(batch) < 1]
    if not fast_enough:
        least = min(batches, key=busy)
        return Load(rate_per_s, most_per_s, least, busy(least), None)
    waits_us = {batch: wait_us(busy(batch), instances, service_us(batch)) for batch in fast_enough}
    best = min(fast_enough, key=lambda batch: waits_us[batch] + service_us(batch))
    return Load(rate_per_s, most_per_s, best, busy(best), waits_us[best])


def wait_us(utilisation: float, instances: int, service_us: float) -> float:
    """The mean wait for one of these instances, each of which is busy for this share (below 1) of the time."""
    crowding: float = utilisation ** (math.sqrt(2 * (instances + 1)) - 1)
    return service_us / 2 * crowding / (instances * (1 - utilisation))
