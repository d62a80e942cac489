"""How long a run of n rows takes on one device: measured, kept current, and asked for predictions."""

from bisect import bisect_left
from collections.abc import Mapping

#: How much one new run moves the estimate.
WEIGHT = 0.1


class Profile:
    """Service time of one (model version, device) as a function of the rows executed together.

    Sizes that were never run are predicted from their measured neighbours: linearly between two, in proportion beyond the
    largest, and as the smallest below it.
    """

    def __init__(self) -> None:
        self._service_us: dict[int, float] = {}
        self._fastest_us: dict[int, float] = {}

    def observe(self, rows: int, service_us: float) -> None:
        """Takes in one run; outliers move the estimate by `WEIGHT` of twice its value at most."""
        known = self._service_us.get(rows)
        self._fastest_us[rows] = min(service_us, self._fastest_us.get(rows, service_us))
        if known is None:
            self._service_us[rows] = service_us
        else:
            self._service_us[rows] = known + WEIGHT * (min(service_us, 3 * known) - known)

    def predict_us(self, rows: int) -> float | None:
        """The expected service time in microseconds; None before the first observation."""
        return _interpolated(self._service_us, rows)

    def fastest_us(self, rows: int) -> float | None:
        """The same of the fastest run of each size: what a run takes when nothing disturbs it."""
        return _interpolated(self._fastest_us, rows)


def _interpolated(known_us: Mapping[int, float], rows: int) -> float | None:
    if rows in known_us:
        return known_us[rows]
    sizes = sorted(known_us)
    if not sizes:
        return None
    at = bisect_left(sizes, rows)
    if at == 0:
        return known_us[sizes[0]]
    low = sizes[at - 1]
    if at == len(sizes):
        return known_us[low] * rows / low
    high = sizes[at]
    share = (rows - low) / (high - low)
    return known_us[low] * (1 - share) + known_us[high] * share
